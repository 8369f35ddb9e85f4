"""vLLM's backends, one layer at a time and without an engine: metadata, the cache, scales. The GPU's backend
computes on whatever device its tensors are on."""

import types

import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is not installed")
if torch.cuda.is_available():
    pytest.skip("vLLM is one for GPUs", allow_module_level=True)

import engine  # noqa: E402
from vllm.config import set_current_vllm_config  # noqa: E402
from vllm.engine.arg_utils import EngineArgs  # noqa: E402
from vllm.v1.attention.backend import AttentionType, CommonAttentionMetadata  # noqa: E402

import octavo  # noqa: E402
from octavo.vllm import _cpu, _cuda  # noqa: E402

BACKENDS = [_cpu.Backend, _cuda.Backend]
HQ, HKV, D, PAGE = 6, 2, 32, 16
Q_LENS, KV_LENS = [1, 4, 20], [33, 4, 50]  # a decode, a prompt, a chunk of one
TOKENS = sum(Q_LENS)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    case = engine.cases()["llama"]
    folder = engine.saved(case, tmp_path_factory.mktemp("llama"))
    return EngineArgs(
        str(folder), dtype="float32", max_model_len=256, max_num_seqs=8, block_size=PAGE,
        skip_tokenizer_init=True,
    ).create_engine_config()  # fmt: skip


def made(config, backend, **options):
    """A layer's Impl."""
    arguments = {
        "num_heads": HQ, "head_size": D, "scale": D**-0.5, "num_kv_heads": HKV, "alibi_slopes": None,
        "sliding_window": None, "kv_cache_dtype": "auto",
    }  # fmt: skip
    with set_current_vllm_config(config):
        impl = backend.get_impl_cls()(**arguments | options)
    impl.process_weights_after_loading(torch.float32)
    return impl


def batch(config, backend, causal=True):
    """The metadata of a step, with shuffled pages and two rows of padding after the tokens."""
    starts = torch.tensor([0, *Q_LENS], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    columns = 8
    table = torch.randperm(3 * columns, generator=torch.Generator().manual_seed(0))
    table = table.view(3, columns).to(torch.int32)
    slots = [
        int(table[r, token // PAGE]) * PAGE + token % PAGE
        for r, (q_len, kv_len) in enumerate(zip(Q_LENS, KV_LENS))
        for token in range(kv_len - q_len, kv_len)
    ]
    common = CommonAttentionMetadata(
        query_start_loc=starts, query_start_loc_cpu=starts,
        seq_lens=torch.tensor(KV_LENS, dtype=torch.int32), num_reqs=3, num_actual_tokens=TOKENS,
        max_query_len=max(Q_LENS), max_seq_len=max(KV_LENS), block_table_tensor=table,
        slot_mapping=torch.tensor(slots), causal=causal,
    )  # fmt: skip
    builder = backend.get_builder_cls()(None, [], config, torch.device("cpu"))
    return builder.build(0, common)


def test_metadata(config):
    for backend in BACKENDS:
        metadata = batch(config, backend)
        assert metadata.q_lens.tolist() == Q_LENS and metadata.q_lens.dtype == torch.int32
        assert metadata.kv_lens.tolist() == KV_LENS
        assert (metadata.requests, metadata.tokens, metadata.max_q_len) == (3, TOKENS, 20)


def test_a_graph_reads_the_lengths_of_its_replays(config):
    builder = _cuda.MetadataBuilder(None, [], config, torch.device("cpu"))
    starts = torch.tensor([0, 1, 2], dtype=torch.int32)
    common = CommonAttentionMetadata(
        query_start_loc=starts, query_start_loc_cpu=starts, seq_lens=torch.tensor([7, 9]).int(),
        num_reqs=2, num_actual_tokens=2, max_query_len=1, max_seq_len=9,
        block_table_tensor=torch.zeros(2, 1).int(), slot_mapping=torch.tensor([6, 8]),
    )  # fmt: skip
    captured = builder.build_for_cudagraph_capture(common)
    assert captured.kv_lens.tolist() == [1, 1]
    starts.copy_(torch.tensor([0, 0, 1]))
    replayed = builder.build(0, common)
    assert captured.q_lens.data_ptr() == replayed.q_lens.data_ptr()
    assert captured.kv_lens.data_ptr() == replayed.kv_lens.data_ptr() == common.seq_lens.data_ptr()
    assert captured.q_lens.tolist() == [0, 1]


@pytest.mark.parametrize("backend", BACKENDS, ids=["cpu", "cuda"])
@pytest.mark.parametrize("kv_cache_dtype", ["auto", "fp8_e4m3", "fp8_e5m2"])
def test_scales_of_the_cache(config, backend, kv_cache_dtype):
    """K and V are stored divided by their scales, and multiplied by them when they are used."""
    generator = torch.Generator().manual_seed(1)
    impl = made(config, backend, kv_cache_dtype=kv_cache_dtype)
    writer = made(config, _cpu.Backend, kv_cache_dtype=kv_cache_dtype)
    metadata = batch(config, backend)
    layer = types.SimpleNamespace(_k_scale_float=0.5, _v_scale_float=4.0)
    past = [torch.randn(2, kv_len, HKV, D, generator=generator) for kv_len in KV_LENS]
    stored = torch.float32 if kv_cache_dtype == "auto" else impl.kv_dtype
    kv_cache = torch.zeros(24, HKV, PAGE, 2 * D, dtype=stored)
    if kv_cache_dtype != "auto":
        kv_cache = kv_cache.view(torch.uint8)  # as vLLM keeps it
    for r, (k, v) in enumerate(past):
        pages = metadata.page_table[r].long()
        token = torch.arange(KV_LENS[r])
        old = token < KV_LENS[r] - Q_LENS[r]
        slots = torch.where(old, pages[token // PAGE] * PAGE + token % PAGE, -1)
        writer.do_kv_cache_update(layer, k, v, kv_cache, slots)
    new_k, new_v = (
        torch.cat([x[side, -q_len:] for x, q_len in zip(past, Q_LENS)]) for side in (0, 1)
    )
    padding = torch.full((2, HKV, D), torch.nan)
    writer.do_kv_cache_update(
        layer, torch.cat((new_k, padding)), torch.cat((new_v, padding)), kv_cache,
        metadata.slot_mapping,
    )  # fmt: skip
    if backend is _cuda.Backend:  # a token's key stands before its value
        halves = kv_cache.view(24, HKV, 2, PAGE, D)
        kv_cache = halves.transpose(2, 3).reshape(kv_cache.shape)

    query = torch.randn(TOKENS + 2, HQ, D, generator=generator)
    output = torch.full_like(query, 7.0)
    impl.forward(layer, query, new_k, new_v, kv_cache, metadata, output)
    k, v = (
        torch.cat([(x[side] / scale).to(stored).float() * scale for x in past])
        for side, scale in ((0, 0.5), (1, 4.0))
    )
    expected = octavo.attention(
        query[:TOKENS], k, v, q_lens=Q_LENS, kv_lens=KV_LENS, mask="causal", softmax_scale=D**-0.5
    )
    torch.testing.assert_close(output[:TOKENS], expected, atol=2e-5, rtol=1e-4)
    assert (output[TOKENS:] == 7.0).all()


@pytest.mark.parametrize("backend", BACKENDS, ids=["cpu", "cuda"])
@pytest.mark.parametrize("window", [None, 3])
def test_an_encoder_sees_all_of_its_step(config, backend, window):
    generator = torch.Generator().manual_seed(2)
    impl = made(config, backend, attn_type=AttentionType.ENCODER_ONLY, sliding_window=window)
    metadata = batch(config, backend, causal=False)
    metadata.kv_lens = metadata.q_lens.clone()  # an encoder's requests have no past
    q = torch.randn(TOKENS, HQ, D, generator=generator)
    k, v = (torch.randn(TOKENS, HKV, D, generator=generator) for _ in range(2))
    output = torch.empty_like(q)
    impl.do_kv_cache_update(None, k, v, None, metadata.slot_mapping)
    impl.forward(None, q, k, v, None, metadata, output)
    mask = "none" if window is None else "window:2,2"
    expected = octavo.attention(q, k, v, q_lens=Q_LENS, kv_lens=Q_LENS, mask=mask)
    torch.testing.assert_close(output, expected, atol=1e-6, rtol=1e-5)


def test_what_vllm_asks_of_the_gpus_backend():
    assert _cuda.Backend.get_name() == "CUSTOM"
    for capability, reasons in ((9, []), (7, ["compute capability not supported"])):
        asked = {
            "head_size": 80, "dtype": torch.bfloat16, "kv_cache_dtype": "auto", "block_size": 16,
            "use_mla": False, "has_sink": True, "use_sparse": False, "use_mm_prefix": False,
            "use_per_head_quant_scales": False, "attn_type": AttentionType.DECODER,
            "device_capability": types.SimpleNamespace(major=capability), "has_sliding_window": True,
        }  # fmt: skip
        assert _cuda.Backend.validate_configuration(**asked) == reasons


@pytest.mark.parametrize("backend", BACKENDS, ids=["cpu", "cuda"])
def test_refusals(config, backend):
    with pytest.raises(octavo.UnsupportedError, match="kv_cache_dtype=int8_per_token_head: must be"):
        made(config, backend, kv_cache_dtype="int8_per_token_head")
    impl = made(config, backend)
    with pytest.raises(octavo.UnsupportedError, match="a quantised output"):
        impl.forward(None, None, None, None, None, None, None, output_scale=torch.ones(1))
    with pytest.raises(octavo.UnsupportedError, match="differs between the requests"):
        batch(config, backend, causal=torch.tensor([True, False, True]))
