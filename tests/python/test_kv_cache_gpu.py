"""octavo.KVCache and octavo.merge_states on a GPU, against the CPU. Skipped where there is none."""

import pytest
import torch

import octavo

if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

DEVICE = "cuda:0"
HKV, HQ, D, PAGE = 2, 4, 16, 4


def rows(count, heads=HKV, seed=0):
    return torch.randn(count, heads, D, generator=torch.Generator().manual_seed(seed))


def cache_of(device, **changes):
    return octavo.KVCache(
        **{"pages": 16, "page_size": PAGE, "hkv": HKV, "d": D, "device": device,
           "like": torch.empty(0, device=device)} | changes
    )  # fmt: skip


def pages_of(cache, request, layer=0):
    page_table, kv_lens = (x.cpu() for x in cache.tables([request]))
    pools = [pool(layer).cpu()[page_table[0].long()] for pool in (cache.k, cache.v)]
    return [pool.flatten(0, 1)[: int(kv_lens[0])] for pool in pools]


@pytest.mark.parametrize("order", ["nhd", "hnd"])
@pytest.mark.parametrize("pool", ["split", "joint"])
def test_attention_over_the_cache(order, pool):
    q, k, v = rows(17, HQ, seed=1), rows(17, seed=2), rows(17, seed=3)
    results = []
    for device in ("cpu", DEVICE):
        cache = cache_of(device, order=order, pool=pool)
        assert cache.device == device and cache.k().device == torch.device(device)
        request, _ = cache.admit(range(17), tokens=6)
        outs = []
        for begin, end in [(0, 6), (6, 16), (16, 17)]:
            if begin:
                cache.reserve(request, list(range(begin, end)))
            cache.append([request], k[begin:end].to(device), v[begin:end].to(device))
            page_table, kv_lens = cache.tables([request])
            assert page_table.device == torch.device(device)
            outs.append(octavo.attention(
                q[begin:end].to(device), cache.k(), cache.v(), page_table=page_table,
                q_lens=[end - begin], kv_lens=kv_lens, mask="causal", order=order,
            ).cpu())  # fmt: skip
        results.append(torch.cat(outs))
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", ["f32", "bf16", "e4m3"])
@pytest.mark.parametrize("style", [None, "halves", "interleaved"])
def test_what_is_stored_are_the_bits_of_the_cpu(dtype, style):
    k, v = rows(9, seed=4).half(), rows(9, seed=5)
    scales = torch.tensor([0.25, 2.0])
    stored = []
    for device in ("cpu", DEVICE):
        cache = cache_of(device, dtype=dtype, layers=2)
        request, _ = cache.admit(range(9))
        rope = None
        if style is not None:
            rope = octavo.Rope(octavo.rope_table(40, 8, like=torch.empty(0, device=device)), style)
        for layer in range(2):
            cache.append([request], k.to(device), v.to(device), layer=layer, rope=rope,
                         k_scale=scales.to(device), v_scale=0.5,
                         positions=None if rope is None or layer == 0 else list(range(20, 29)))  # fmt: skip
        stored.append([x.view(torch.uint8) for layer in range(2) for x in pages_of(cache, request, layer)])
    for on_gpu, on_cpu in zip(stored[1], stored[0]):
        assert torch.equal(on_gpu, on_cpu)


def test_forks_copy_pages_on_the_device():
    cache = cache_of(None, k=[torch.zeros(16, PAGE, HKV, D, device=DEVICE)],
                     v=[torch.zeros(16, PAGE, HKV, D, device=DEVICE)], like=None)  # fmt: skip
    assert cache.device == DEVICE
    k = rows(6)
    a = cache.admit(range(6)).request
    cache.append([a], k.to(DEVICE), k.to(DEVICE))
    b = cache.fork(a)
    more = rows(2, seed=5)
    for request, row in ((a, more[:1]), (b, more[1:])):
        cache.reserve(request, 1)
        cache.append([request], row.to(DEVICE), row.to(DEVICE))
    assert cache.statistics().copies == 1
    assert torch.equal(pages_of(cache, a)[0], torch.cat([k, more[:1]]))
    assert torch.equal(pages_of(cache, b)[1], torch.cat([k, more[1:]]))


def test_the_stream_that_is_current_when_the_cache_is_made():
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        cache = octavo.KVCache(pages=16, page_size=PAGE, hkv=HKV, d=D, device=DEVICE)
        k = rows(6).to(DEVICE)
        request, _ = cache.admit(range(6))
        cache.append([request], k, k)
    stream.synchronize()
    assert torch.equal(pages_of(cache, request)[0], k.cpu())


def test_what_is_refused():
    cache = cache_of(DEVICE)
    request, _ = cache.admit(range(3))
    with pytest.raises(octavo.InvalidArgumentError, match="k is on cpu: the cache is on cuda:0"):
        cache.append([request], rows(3), rows(3).to(DEVICE))
    with pytest.raises(octavo.InvalidArgumentError, match="prompt is on cuda:0: must be in host"):
        cache.admit(torch.arange(3, device=DEVICE))
    with pytest.raises(octavo.InvalidArgumentError, match="like is on cpu: device='cuda:0'"):
        octavo.KVCache(pages=1, hkv=1, d=8, device=DEVICE, like=torch.empty(0))
    assert cache.length(request) == 3 and cache.written(request) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_merge_states(dtype):
    generator = torch.Generator().manual_seed(1)
    outs = torch.randn(3, 50, HQ, 72, generator=generator).to(dtype)
    lses = 3 * torch.randn(3, 50, HQ, generator=generator)
    lses[1, 2], outs[1, 2] = -torch.inf, torch.nan
    lses[:, 4], outs[:, 4] = -torch.inf, torch.nan
    expected, expected_lse = octavo.merge_states(outs, lses)
    graph, first = torch.cuda.CUDAGraph(), None
    outs, lses = outs.to(DEVICE), lses.to(DEVICE)
    out, lse = octavo.merge_states(outs, lses)
    with torch.cuda.graph(graph):
        octavo.merge_states(outs, lses, out=out, lse=lse)
    for _ in range(2):
        out.fill_(9)
        graph.replay()
        torch.cuda.synchronize()
        assert first is None or torch.equal(first, out)
        first = out.clone()
    bound = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(out.cpu(), expected, rtol=bound, atol=bound)
    torch.testing.assert_close(lse.cpu(), expected_lse, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kernel", ["", "cuda_cascade"])
def test_a_prefix_that_requests_share(kernel):
    generator = torch.Generator().manual_seed(2)
    k, v = (torch.randn(20, PAGE, HKV, D, generator=generator).half() for _ in range(2))
    q = torch.randn(7, HQ, D, generator=generator).half()
    table = torch.tensor([[9, 3, 7, 0], [9, 3, 1, 2], [9, 3, 5, 6]], dtype=torch.int32)
    q_lens, kv_lens = torch.tensor([1, 2, 4], dtype=torch.int32), torch.tensor([9, 14, 11], dtype=torch.int32)
    prefix = octavo.common_prefix(table, q_lens, kv_lens, PAGE)
    assert prefix == 8
    lengths = {"q_lens": q_lens, "kv_lens": kv_lens, "page_table": table}
    expected, expected_lse = octavo.attention(
        q.float(), k.float(), v.float(), **lengths, mask="causal", return_lse=True
    )
    out, lse = octavo.attention(
        *(x.to(DEVICE) for x in (q, k, v)), **{n: x.to(DEVICE) for n, x in lengths.items()},
        mask="causal", return_lse=True, prefix=prefix, kernel=kernel,
    )  # fmt: skip
    torch.testing.assert_close(out.cpu().float(), expected, rtol=0, atol=2e-3)
    torch.testing.assert_close(lse.cpu(), expected_lse, rtol=0, atol=2e-3)
