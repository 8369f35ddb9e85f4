"""vLLM on Octavo: tiny random models, against vLLM's own attention in a second process."""

from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed")

import torch  # noqa: E402
from engine_runs import check_encoder, check_transcript, distance, result_of, run  # noqa: E402

if torch.cuda.is_available():
    pytest.skip("vLLM is one for GPUs", allow_module_level=True)

SHARED = ["gpt-oss", "gemma2", "bloom"]
HALVES = ["llama-bf16", "llama-f16"]
FP8 = ["llama-fp8", "llama-e5m2"]
OCTAVO_ONLY = ["llama-page-1", "llama-chunked-prefill"]
ENCODERS = ["bert", "modernbert"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    """The results on Octavo and on vLLM's own attention, of processes that run side by side."""
    others = ["llama", *ENCODERS, "whisper", "repetitive"]
    # The speculative one comes last: after numba is imported, vLLM starts no other engine.
    names = [*SHARED, *HALVES, *FP8, *OCTAVO_ONLY, *others, "repetitive-speculative"]
    both = {True: names, False: [*SHARED, *HALVES, *FP8, "llama"]}
    with ThreadPoolExecutor() as pool:
        yield {
            octavo: pool.submit(run, tmp_path_factory.mktemp("models"), octavo, both[octavo])
            for octavo in both
        }


@pytest.fixture(scope="module")
def on_octavo(engines):
    return engines[True].result()


@pytest.fixture(scope="module")
def on_own(engines):
    return engines[False].result()


@pytest.mark.parametrize("name", [*SHARED, *HALVES, *FP8, *OCTAVO_ONLY, "repetitive-speculative"])
def test_prefix_hits_change_no_token(on_octavo, name):
    result = result_of(on_octavo, name)
    assert result["cached"] > 0
    assert result["hit"] == result["cold"]


@pytest.mark.parametrize("name", SHARED)
def test_close_to_vllms_own_attention(on_octavo, on_own, name):
    assert distance(result_of(on_octavo, name), result_of(on_own, name)) < 1e-3


@pytest.mark.parametrize("name", ["llama-page-1", "llama-chunked-prefill"])
def test_pages_and_chunks_do_not_matter(on_octavo, on_own, name):
    result = result_of(on_octavo, name)
    assert result["cold"] == result_of(on_own, "llama")["cold"]
    assert distance(result, result_of(on_own, "llama")) < 1e-3


@pytest.mark.parametrize("name", [*HALVES, *FP8])
def test_rounding_loses_no_more_than_in_vllms_own_attention(on_octavo, on_own, name):
    if "requires x86 with AVX-512" in on_own[name].get("error", ""):
        pytest.skip(on_own[name]["error"])
    error = distance(result_of(on_octavo, name), result_of(on_octavo, "llama"))
    own_error = distance(result_of(on_own, name), result_of(on_own, "llama"))
    assert 0 < error < 1.2 * own_error


def test_speculative_decoding_changes_no_token(on_octavo):
    plain = result_of(on_octavo, "repetitive")
    speculative = result_of(on_octavo, "repetitive-speculative")
    assert 0 < speculative["accepted"] < speculative["draft"]
    for way in ("cold", "hit", "together"):
        assert speculative[way] == plain["cold"]


def test_two_ranks_give_the_same_tokens(folder, on_octavo):
    # A thread each: on the same few processors more would mostly wait for each other.
    threads = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    ranks = result_of(run(folder, True, ["llama-two-ranks"], **threads), "llama-two-ranks")
    assert ranks["together"] == result_of(on_octavo, "llama")["cold"]


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders(on_octavo, name):
    check_encoder(result_of(on_octavo, name), "octavo.vllm._cpu")


def test_cross_attention(on_octavo):
    check_transcript(result_of(on_octavo, "whisper"), "octavo.vllm._cpu")
