"""vLLM on a GPU with Octavo's backend CUSTOM: tiny random models, against vLLM's Triton attention in other
processes."""

import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is not installed")
if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

from engine_runs import check_encoder, check_transcript, distance, finish, result_of, start  # noqa: E402

# Else Triton multiplies fp32 as TF32, in its attention and in mixtures of experts: log-probabilities are then
# hundreds of times farther from exact ones.
IN_FP32 = {"TRITON_F32_DEFAULT": "ieee"}

# Of log-probabilities, on average; an H100 gave up to 5e-6.
CLOSE_TO_TRITON = 3e-5

SHARED = ["gpt-oss", "gemma2", "bloom"]  # sinks, windows, a soft cap, ALiBi
HALVES = ["llama-bf16", "llama-f16"]
FP8 = ["llama-fp8", "llama-bf16-fp8"]
GRAPHS = ["llama-whole-graphs", "llama-graphs-in-pieces"]
PAGES = ["llama-page-1", "llama-chunked-prefill"]
ENCODERS = ["bert", "modernbert"]
SPECULATIVE = ["repetitive-speculative", "repetitive-speculative-graphs"]

# What a process runs. After numba is imported, vLLM starts no other engine.
ON_OCTAVO = [
    ["llama", *HALVES, *FP8],
    [*SHARED, *PAGES],
    [*GRAPHS, "llama-bf16-graphs", "repetitive"],
    *([name] for name in SPECULATIVE),
    [*ENCODERS, "whisper"],
]
ON_OWN = [["llama", *HALVES, *FP8], SHARED]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Of Octavo, and of vLLM's own. The processes compute side by side."""
    running = [
        (octavo, start(tmp_path_factory.mktemp("models"), octavo, names, **IN_FP32))
        for octavo, runs in ((True, ON_OCTAVO), (False, ON_OWN))
        for names in runs
    ]
    found = {True: {}, False: {}}
    for octavo, process in running:
        found[octavo] |= finish(process)
    return found[True], found[False]


@pytest.fixture
def on_octavo(results):
    return results[0]


@pytest.fixture
def on_own(results):
    return results[1]


@pytest.mark.parametrize(
    "name", ["llama", *SHARED, *HALVES, *FP8, *GRAPHS, "llama-bf16-graphs", *PAGES, *SPECULATIVE]
)
def test_prefix_hits_change_no_token(on_octavo, name):
    result = result_of(on_octavo, name)
    assert set(result["attention"]) == {"octavo.vllm._cuda"}
    assert result["cached"] > 0
    assert result["hit"] == result["cold"]


@pytest.mark.parametrize("name", ["llama", *SHARED])
def test_close_to_vllms_own_attention(on_octavo, on_own, name):
    own = result_of(on_own, name)
    assert set(own["attention"]) == {"vllm.v1.attention.backends.triton_attn"}
    assert distance(result_of(on_octavo, name), own) < CLOSE_TO_TRITON


@pytest.mark.parametrize("name", [*GRAPHS, *PAGES])
def test_graphs_pages_and_chunks_do_not_matter(on_octavo, on_own, name):
    result = result_of(on_octavo, name)
    assert (result["graphs"] > 0) == (name in GRAPHS)
    for way in ("cold", "together"):
        assert result[way] == result_of(on_own, "llama")["cold"]
    assert distance(result, result_of(on_octavo, "llama")) < 1e-3


@pytest.mark.parametrize("name", [*HALVES, *FP8, "llama-bf16-graphs"])
def test_rounding_loses_no_more_than_in_vllms_own_attention(on_octavo, on_own, name):
    error = distance(result_of(on_octavo, name), result_of(on_octavo, "llama"))
    own_error = distance(result_of(on_own, name.removesuffix("-graphs")), result_of(on_own, "llama"))
    assert 0 < error < 1.2 * own_error


@pytest.mark.parametrize("name", SPECULATIVE)
def test_speculative_decoding_changes_no_token(on_octavo, name):
    speculative = result_of(on_octavo, name)
    assert 0 < speculative["accepted"] < speculative["draft"]
    for way in ("cold", "hit", "together"):
        assert speculative[way] == result_of(on_octavo, "repetitive")["cold"]


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders(on_octavo, name):
    check_encoder(result_of(on_octavo, name), "octavo.vllm._cuda")


def test_cross_attention(on_octavo):
    check_transcript(result_of(on_octavo, "whisper"), "octavo.vllm._cuda")
