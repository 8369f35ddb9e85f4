"""octavo.flashinfer on a GPU: the host reads nothing there, and results are as on the CPU."""

import pytest
import test_flashinfer_fmha as fmha
import test_flashinfer_wrappers as wrappers
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only

import octavo.flashinfer as flashinfer

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
INT32 = torch.int32
OPTIONS = [
    {},
    {"mask_mode": "sliding_window", "window_left": 5},
    {"mask_mode": "chunked", "chunked_attention_size": 7},
    {"pos_encoding_mode": "alibi", "logits_soft_cap_scale": 3.0},
    {"save_softmax_stats": True, "bmm2_scale": 0.5},
]


def gpu(tree):
    return tree_map_only(torch.Tensor, lambda tensor: tensor.cuda(), tree)


def cpu(tree):
    return tree_map_only(torch.Tensor, lambda tensor: tensor.cpu(), tree)


# Fake tensors have a device and a shape but no contents: whatever reads one on the host raises.


def fake(*shape, dtype=torch.float16):
    return torch.empty(shape, dtype=dtype, device="cuda")


@pytest.mark.parametrize("layout", fmha.LAYOUTS)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("sinks", [False, True])
def test_the_host_reads_no_tensor_of_the_function(layout, options, sinks):
    with FakeTensorMode():
        qkv, table = {
            "PACKED_QKV": (fake(10, 3, 4, 32), None),
            "CONTIGUOUS_Q_KV": ((fake(10, 4, 32), fake(20, 2, 2, 32)), None),
            "SEPARATE_Q_K_V": ((fake(10, 4, 32), fake(20, 2, 32), fake(20, 2, 32)), None),
            "Q_PAGED_KV_NHD": ((fake(10, 4, 32), fake(5, 2, 16, 2, 32)), fake(2, 3, dtype=INT32)),
            "Q_PAGED_KV_HND": ((fake(10, 4, 32), fake(5, 2, 2, 16, 32)), fake(2, 3, dtype=INT32)),
        }[layout]
        out = fake(10, 4, 32)
        result = flashinfer.trtllm_fmha_v2_prefill(
            qkv, layout, None, fake(2, dtype=INT32), 7, 9, 0.1, batch_size=2, block_tables=table,
            cum_seq_lens_q=fake(3, dtype=INT32), cum_seq_lens_kv=fake(3, dtype=INT32), out=out,
            sinks=fake(4, dtype=torch.float32) if sinks else None, **{"bmm2_scale": 1.0} | options,
        )  # fmt: skip
        if options.get("save_softmax_stats"):
            result, statistics = result
            assert tuple(statistics.shape) == (10, 4, 2) and statistics.device.type == "cuda"
        assert result is out


def test_the_host_reads_no_tensor_of_the_other_functions():
    with FakeTensorMode():
        q, kv = fake(10, 4, 32), fake(20, 2, 32)
        for setting in ({"causal": True}, {"pos_encoding_mode": "ALIBI"}, {"window_left": 3}):
            _, lse = flashinfer.single_prefill_with_kv_cache(q, kv, kv, return_lse=True, **setting)
            assert tuple(lse.shape) == (10, 4) and lse.device.type == "cuda"
        assert flashinfer.single_decode_with_kv_cache(q[0], kv, kv).shape == q[0].shape
        merged, _ = flashinfer.merge_state(q, lse, q, lse)
        assert merged.shape == q.shape
        lens = flashinfer.get_seq_lens(fake(3, dtype=INT32), fake(2, dtype=INT32), 16)
        places = flashinfer.get_batch_indices_positions(fake(3, dtype=INT32), lens, 20)
        flashinfer.append_paged_kv_cache(
            kv, kv, *places, fake(5, 2, 16, 2, 32), fake(4, dtype=INT32), fake(3, dtype=INT32),
            fake(2, dtype=INT32),
        )  # fmt: skip


# Results.


@on_gpu
@pytest.mark.parametrize("layout", fmha.LAYOUTS)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype", [*fmha.HALVES, fmha.E4M3])
def test_the_function(layout, options, dtype):
    batch = fmha.Batch([33, 1, 17, 9], hkv=4, dtype=dtype)
    result = torch.bfloat16 if dtype == fmha.E4M3 else dtype
    sinks = batch.random(4)
    given = batch.call(layout, sinks=sinks, **options)
    # The same numbers on the CPU in float32, whose rounding is negligible beside the others'.
    exact = fmha.trtllm_fmha_v2_prefill(**tree_map_only(torch.Tensor, as_float32, given))
    out = torch.full(batch.q.shape, fmha.NAN, dtype=result, device="cuda")
    actual = fmha.trtllm_fmha_v2_prefill(**gpu(given), out=out)
    if options.get("save_softmax_stats"):
        (actual, statistics), (exact, exact_statistics) = actual, exact
        torch.testing.assert_close(statistics.cpu(), exact_statistics, rtol=1e-4, atol=1e-4)
    assert actual is out
    fmha.close(actual.cpu(), exact.double().numpy())


def as_float32(tensor):
    return tensor.float() if tensor.dtype.is_floating_point else tensor


@on_gpu
@pytest.mark.parametrize("own_order", [False, True])
def test_pools_apart(own_order):
    batch = fmha.Batch([9, 30], [40, 33], page=8)
    k, v, table = batch.pages("nhd")
    places = torch.randperm(len(k)) if own_order else torch.arange(len(k))
    both = torch.cat((k, torch.empty_like(v).index_copy_(0, places, v))).cuda()
    used = torch.arange(table.shape[1]) * 8 < torch.tensor(batch.kv_lens)[:, None]
    v_table = torch.where(used, places[table.clamp(0, len(k) - 1)] + len(k), 12345).int()
    given = gpu(batch.call("Q_PAGED_KV_NHD", qkv=batch.q,
                           block_tables=torch.stack((table, v_table), dim=1)))  # fmt: skip
    given["qkv"] = (given["qkv"], both.split(len(k)))
    fmha.close(fmha.trtllm_fmha_v2_prefill(**given).cpu(), batch.expected()[0])


@on_gpu
def test_the_function_in_a_graph():
    """Replayed with other lengths, pages and numbers in the same places."""
    first, second = fmha.Batch([9, 4], [17, 40]), fmha.Batch([3, 10], [33, 12], seed=1)
    placed = gpu(first.call("Q_PAGED_KV_HND", max_q_len=16, max_kv_len=64, save_softmax_stats=True))
    pool = placed["qkv"][1]
    placed["block_tables"] = torch.zeros(2, 4, dtype=INT32, device="cuda")
    fmha.trtllm_fmha_v2_prefill(**placed)  # loads what a capture cannot
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out, statistics = fmha.trtllm_fmha_v2_prefill(**placed)
    for batch in (first, second):
        new = batch.call("Q_PAGED_KV_HND")
        placed["qkv"][0].copy_(new["qkv"][0])
        pages = min(len(pool), len(new["qkv"][1]))
        pool[:pages].copy_(new["qkv"][1][:pages])
        assert len(new["qkv"][1]) <= len(pool)
        placed["block_tables"][:, : new["block_tables"].shape[1]].copy_(new["block_tables"])
        for name in ("seq_lens", "cum_seq_lens_q", "cum_seq_lens_kv"):
            placed[name].copy_(new[name])
        graph.replay()
        expected, lse = batch.expected()
        fmha.close(out.cpu(), expected)
        actual = fmha.lse_of(statistics.cpu(), 32**-0.5, 32)
        torch.testing.assert_close(torch.tensor(actual), torch.tensor(lse), rtol=1e-3, atol=1e-3)


@on_gpu
@pytest.mark.parametrize("order", ["NHD", "HND"])
@pytest.mark.parametrize("options, features", wrappers.SETTINGS)
@pytest.mark.parametrize("kind", ["prefill", "ragged", "decode"])
def test_wrappers(kind, order, options, features):
    if kind == "decode":
        options = {name: value for name, value in options.items() if name != "causal"}
        features = {**features, "mask": features["mask"].replace("-1", "0")}
    q_lens = [1, 1, 1, 1] if kind == "decode" else [9, 1, 0, 4]
    batch = wrappers.Batch(q_lens, [17, 8, 5, 9], dtype=torch.float16, order=order)
    wrapper = wrapper_of(kind, order)
    batch.pages = gpu(batch.pages)
    batch.plan(wrapper, **options)
    kv = batch.ragged_kv() if kind == "ragged" else [batch.cache]
    out, lse = wrapper.run(*gpu((batch.q, *kv)), return_lse=True)
    expected, natural = batch.expected(**features)
    wrappers.close(out.cpu(), expected)
    wrappers.close_lse(lse.cpu(), natural)


def wrapper_of(kind, order, **options):
    classes = {
        "prefill": flashinfer.BatchPrefillWithPagedKVCacheWrapper,
        "ragged": flashinfer.BatchPrefillWithRaggedKVCacheWrapper,
        "decode": flashinfer.BatchDecodeWithPagedKVCacheWrapper,
    }
    return classes[kind](torch.empty(0, dtype=torch.uint8, device="cuda"), order, **options)


@on_gpu
def test_a_wrapper_in_a_graph():
    first = wrappers.Batch([1, 1], [17, 30], dtype=torch.float16)
    second = wrappers.Batch([1, 1], [3, 26], dtype=torch.float16, seed=1)
    wrapper = wrapper_of("decode", "NHD", use_cuda_graph=True)
    first.plan(wrapper)
    q, cache = gpu((first.q, first.cache))
    wrapper.run(q, cache)  # loads what a capture cannot
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = wrapper.run(q, cache)
    for batch in (first, second):
        batch.plan(wrapper)
        q.copy_(batch.q)
        cache[: len(batch.cache)].copy_(batch.cache)
        graph.replay()
        wrappers.close(out.cpu(), batch.expected(mask="causal")[0])


@on_gpu
@pytest.mark.parametrize("order", ["NHD", "HND"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, fmha.E4M3])
def test_append_writes_the_same_bytes(order, dtype):
    batch = wrappers.Batch([9, 1, 0, 4], [17, 8, 5, 9], order=order, dtype=dtype)
    rows = (torch.randn(16, 2, 32, generator=batch.generator).to(dtype) for _ in "kv")
    lens = flashinfer.get_seq_lens(batch.pages["indptr"], batch.pages["last"], 8)
    places = flashinfer.get_batch_indices_positions(wrappers.sums(batch.q_lens), lens, 16)
    page_list = (batch.pages["indices"], batch.pages["indptr"], batch.pages["last"])
    call = (*rows, *places, batch.cache, *page_list)
    on_gpu = gpu(call)
    for given in (call, on_gpu):
        flashinfer.append_paged_kv_cache(*given, order)
    assert torch.equal(on_gpu[4].cpu().view(torch.uint8), batch.cache.view(torch.uint8))


@on_gpu
def test_merging():
    v, s = torch.randn(5, 3, 4, 32), torch.randn(5, 3, 4)
    s[1, 0], v[1, 0] = -torch.inf, torch.nan
    for actual, expected in zip(cpu(flashinfer.merge_states(*gpu((v, s)))),
                                flashinfer.merge_states(v, s)):  # fmt: skip
        torch.testing.assert_close(actual, expected)
