"""FlashInfer's wrappers, single-request functions, append and merge, against the definition."""

import math

import numpy as np
import oracle
import pytest
import torch

import octavo.flashinfer as flashinfer
from octavo import UnsupportedError

NAN = float("nan")
WORKSPACE = torch.empty(0, dtype=torch.uint8)
E4M3 = torch.float8_e4m3fn
SLOPES = np.array([2**-2, 2**-4, 2**-6, 2**-8])  # of 4 heads


def sums(lengths):
    return torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)


class Batch:
    """Random requests, in pages as FlashInfer lists them; unused slots and pages hold NaN."""

    def __init__(self, q_lens, kv_lens, hq=4, hkv=2, d=32, dtype=torch.float32, page=8, order="NHD",
                 seed=0):  # fmt: skip
        self.q_lens, self.kv_lens, self.page, self.order = q_lens, kv_lens, page, order
        generator = torch.Generator().manual_seed(seed)
        draw = lambda *shape: torch.randn(shape, generator=generator).to(dtype)  # noqa: E731
        self.generator, self.q = generator, draw(sum(q_lens), hq, d)
        self.keys = [draw(n, hkv, d) for n in kv_lens]
        self.values = [draw(n, hkv, d) for n in kv_lens]
        self.heads = (hq, hkv, d)
        pools = []
        for tokens in (self.keys, self.values):
            numbers = [x.float().numpy() for x in tokens]
            pool, table = oracle.paged(numbers, page, order.lower(), seed=3)
            pools.append(torch.from_numpy(pool).to(dtype))
        counts = [-(-n // page) for n in kv_lens]
        self.cache = torch.stack(pools, dim=1)
        self.pages = {
            "indptr": sums(counts),
            "indices": torch.from_numpy(np.concatenate([t[:n] for t, n in zip(table, counts)])),
            "last": torch.tensor(
                [n - (c - 1) * page if c else 0 for n, c in zip(kv_lens, counts)]
            ).int(),
        }

    def plan(self, wrapper, **options):
        options = {"q_data_type": self.q.dtype} | options
        if isinstance(wrapper, flashinfer.BatchPrefillWithRaggedKVCacheWrapper):
            wrapper.plan(sums(self.q_lens), sums(self.kv_lens), *self.heads, **options)
        elif isinstance(wrapper, flashinfer.BatchDecodeWithPagedKVCacheWrapper):
            wrapper.plan(*self.pages.values(), *self.heads, self.page, **options)
        else:
            wrapper.plan(sums(self.q_lens), *self.pages.values(), *self.heads, self.page, **options)
        return wrapper

    def prefill(self, **options):
        wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(WORKSPACE, self.order)
        return self.plan(wrapper, **options)

    def ragged(self, **options):
        wrapper = flashinfer.BatchPrefillWithRaggedKVCacheWrapper(WORKSPACE, self.order)
        return self.plan(wrapper, **options)

    def decode(self, **options):
        wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(WORKSPACE, self.order)
        return self.plan(wrapper, **options)

    def ragged_kv(self):
        kv = torch.cat(self.keys), torch.cat(self.values)
        return [x.transpose(0, 1).contiguous() for x in kv] if self.order == "HND" else kv

    def expected(self, **features):
        keys, values = ([x.double().numpy() for x in side] for side in (self.keys, self.values))
        return oracle.attention(
            self.q.double().numpy(), keys, values, self.q_lens, self.kv_lens, oracle.Features(**features)
        )


def close(actual, expected, bound=None):
    actual_ = actual.double().numpy()
    assert np.isfinite(actual_).all()
    bound = bound or max(2 * torch.finfo(actual.dtype).eps, 2e-6)
    np.testing.assert_allclose(actual_, expected, rtol=bound, atol=bound * max(1, abs(expected).max()))


def close_lse(actual, natural):
    np.testing.assert_allclose(
        actual.double().numpy(), natural * math.log2(math.e), rtol=1e-5, atol=1e-5
    )


SETTINGS = [
    ({}, {"mask": "none"}),
    ({"causal": True}, {"mask": "causal"}),
    ({"causal": True, "window_left": 4}, {"mask": "window:4,0"}),
    ({"window_left": 0}, {"mask": "window:0,-1"}),
    (
        {"causal": True, "logits_soft_cap": 2.0, "sm_scale": 0.4},
        {"mask": "causal", "cap": 2.0, "scale": 0.4},
    ),
]


@pytest.mark.parametrize("order", ["NHD", "HND"])
@pytest.mark.parametrize("options, features", SETTINGS)
@pytest.mark.parametrize("kind", ["prefill", "ragged"])
def test_prefill(kind, order, options, features):
    batch = Batch([9, 1, 0, 20], [17, 8, 5, 20], order=order)
    wrapper = getattr(batch, kind)(**options)
    kv = (batch.cache,) if kind == "prefill" else batch.ragged_kv()
    out, lse = torch.full_like(batch.q, NAN), torch.full((30, 4), NAN)
    result = wrapper.run(batch.q, *kv, out=out, lse=lse, return_lse=True)
    assert result[0] is out and result[1] is lse
    expected, natural = batch.expected(**features)
    close(out, expected)
    close_lse(lse, natural)
    assert torch.equal(wrapper.run(batch.q, *kv), out)
    assert torch.equal(wrapper.run_return_lse(batch.q, *kv)[1], lse)


@pytest.mark.parametrize("order", ["NHD", "HND"])
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("q_len", [1, 3])
def test_decode(order, apart, q_len):
    batch = Batch([q_len] * 3, [3, 16, 33], order=order)
    cache = tuple(batch.cache.unbind(1)) if apart else batch.cache
    wrapper = batch.decode(q_len_per_req=q_len, window_left=20)
    out, lse = wrapper.run(batch.q, cache, return_lse=True)
    expected, natural = batch.expected(mask="window:20,0")
    close(out, expected)
    close_lse(lse, natural)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dtypes(dtype):
    batch = Batch([9, 4], [17, 8], dtype=dtype)
    close(batch.prefill(causal=True).run(batch.q, batch.cache), batch.expected(mask="causal")[0])
    cache = batch.cache.to(E4M3)
    batch.keys, batch.values = ([x.to(E4M3) for x in side] for side in (batch.keys, batch.values))
    wrapper = batch.prefill(causal=True, kv_data_type="float8_e4m3fn")
    out = wrapper.run(batch.q, cache, k_scale=0.5, v_scale=torch.tensor(3.0))
    close(out, 3 * batch.expected(mask="causal", scale=0.5 * 32**-0.5)[0])


def test_e4m3_with_a_scale_per_head():
    batch = Batch([9, 4], [17, 8], hkv=4, dtype=E4M3)
    scale_q, scale_k, scale_v = (torch.rand(4, generator=batch.generator) + 0.5 for _ in range(3))
    wrapper = batch.prefill(causal=True, o_data_type=torch.float16)
    out = wrapper.run(batch.q, batch.cache, scale_q, scale_k, scale_v)
    assert out.dtype == torch.float16
    for h in range(4):
        scale = float(scale_q[h] * scale_k[h]) * 32**-0.5
        expected = float(scale_v[h]) * batch.expected(mask="causal", scale=scale)[0][:, h]
        close(out[:, h], expected)
    with pytest.raises(UnsupportedError, match="scale_q of 4 heads with 2 KV heads"):
        few = Batch([9], [9], dtype=E4M3)
        few.prefill().run(few.q, few.cache, scale_q, scale_k[:2], scale_v[:2])


def test_sinks_and_a_window_of_the_run():
    batch = Batch([9, 4], [17, 8])
    sinks = torch.tensor([1.0, -2.0, 0.5, 3.0])
    wrapper = batch.prefill(causal=True, window_left=2)
    out, lse = wrapper.run(batch.q, batch.cache, sinks=sinks, window_left=6, return_lse=True)
    expected, natural = batch.expected(mask="window:6,0", sinks=sinks.numpy())
    close(out, expected)
    close_lse(lse, natural)
    close(wrapper.run(batch.q, batch.cache, window_left=-1), batch.expected(mask="causal")[0])
    close(wrapper.run(batch.q, batch.cache), batch.expected(mask="window:2,0")[0])


@pytest.mark.parametrize("kind", ["prefill", "ragged", "decode"])
def test_alibi_counts_from_each_requests_first_query(kind):
    batch = Batch([1, 1], [17, 8]) if kind == "decode" else Batch([9, 0, 4], [17, 3, 8])
    causal = {} if kind == "decode" else {"causal": True}
    wrapper = getattr(batch, kind)(pos_encoding_mode="ALIBI", **causal)
    kv = batch.ragged_kv() if kind == "ragged" else (batch.cache,)
    out, lse = wrapper.run(batch.q, *kv, return_lse=True)
    expected, natural = batch.expected(mask="causal", slopes=SLOPES)
    close(out, expected)
    offsets = np.repeat(np.array(batch.kv_lens) - batch.q_lens, batch.q_lens)
    close_lse(lse, natural + offsets[:, None] * SLOPES)


def custom(batch):
    """Random masks: for each request [q_len, kv_len], flattened; and all as rows of keys."""
    parts = [
        torch.rand(q, kv, generator=batch.generator) < 0.5 for q, kv in zip(batch.q_lens, batch.kv_lens)
    ]
    rows = torch.zeros(sum(batch.q_lens), max(batch.kv_lens), dtype=torch.bool)
    first = 0
    for part in parts:
        rows[first : first + len(part), : part.shape[1]] = part
        first += len(part)
    return torch.cat([part.reshape(-1) for part in parts]), rows.numpy()


@pytest.mark.parametrize("kind", ["prefill", "ragged"])
@pytest.mark.parametrize("window", [-1, 3])
def test_custom_masks(kind, window):
    batch = Batch([9, 0, 5, 1], [17, 4, 8, 33])
    flat, rows = custom(batch)
    if window >= 0:
        first = 0
        for q_len, kv_len in zip(batch.q_lens, batch.kv_lens):
            for i in range(q_len):
                rows[first + i, : max(0, kv_len - q_len + i - window)] = False
            first += q_len
    wrapper = getattr(batch, kind)(custom_mask=flat, causal=True, window_left=window)
    kv = (batch.cache,) if kind == "prefill" else batch.ragged_kv()
    out, lse = wrapper.run(batch.q, *kv, return_lse=True)
    expected, natural = batch.expected(bits=rows)
    close(out, expected)
    close_lse(lse, natural)


def packed(flat):
    return torch.from_numpy(np.packbits(flat.numpy(), bitorder="little"))


def test_packed_masks():
    batch = Batch([4, 8, 3], [10, 9, 7])  # 40, 72 and 21 bits
    flat, rows = custom(batch)
    wrapper = batch.prefill(packed_custom_mask=packed(flat))
    close(wrapper.run(batch.q, batch.cache), batch.expected(bits=rows)[0])
    with pytest.raises(UnsupportedError, match=r"\[21, 72, 40\] bits: only the last"):
        Batch([3, 8, 4], [7, 9, 10]).prefill(packed_custom_mask=packed(flat))


def test_lse_bases_and_layouts():
    batch = Batch([9, 4], [17, 8])
    _, natural = batch.expected()
    wrapper = batch.prefill()
    for base, factor in (("log2", math.log2(math.e)), ("ln", 1)):
        for layout, expected in (("NH", natural * factor), ("HN", natural.T * factor)):
            given = torch.full(expected.shape, NAN)
            for lse in (None, given):
                _, actual = wrapper.run(
                    batch.q, batch.cache, lse=lse, return_lse=True, lse_base=base, lse_layout=layout
                )
                np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-5, atol=1e-5)
                assert actual.is_contiguous() and (lse is None or actual is lse)


def test_ragged_divides_by_o_scale():
    batch = Batch([9], [17])
    out = batch.ragged().run(
        batch.q, *batch.ragged_kv(), q_scale=2.0, k_scale=0.5, v_scale=3.0, o_scale=4.0
    )
    close(out, 0.75 * batch.expected()[0])


def test_old_names_and_positions():
    batch = Batch([9, 4], [17, 8])
    wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(WORKSPACE)
    wrapper.begin_forward(sums(batch.q_lens), *batch.pages.values(), *batch.heads, 8,
                          q_data_type=torch.float32)  # fmt: skip
    close(wrapper.forward(batch.q, batch.cache, causal=True), batch.expected(mask="causal")[0])
    close_lse(wrapper.forward_return_lse(batch.q, batch.cache)[1], batch.expected()[1])
    close(batch.ragged().forward(batch.q, *batch.ragged_kv(), window_left=3, causal=True),
          batch.expected(mask="window:3,0")[0])  # fmt: skip
    one = Batch([1, 1], [17, 8])
    decode = flashinfer.BatchDecodeWithPagedKVCacheWrapper(WORKSPACE)
    decode.begin_forward(*one.pages.values(), *one.heads, 8, "NONE", 5, None, torch.float32)
    close(decode.run(one.q, one.cache), one.expected(mask="window:5,0")[0])
    close(decode.forward(one.q, one.cache), one.expected()[0])


def test_data_type_stands_for_what_is_none():
    batch = Batch([1, 1], [17, 8])
    expected = batch.expected(mask="causal")[0]
    wrapper = batch.decode(q_data_type=None, data_type="float32")
    close(wrapper.run(batch.q, batch.cache), expected)
    batch.cache = batch.cache.to(E4M3)
    batch.keys, batch.values = ([x.to(E4M3) for x in side] for side in (batch.keys, batch.values))
    wrapper = batch.decode(q_data_type="float32", data_type=E4M3)
    close(wrapper.run(batch.q, batch.cache), batch.expected(mask="causal")[0])


def test_pages_of_one_token_without_their_dimension():
    batch = Batch([9, 4], [17, 8], page=1)
    flat = batch.cache.squeeze(2)
    assert flat.ndim == 4
    close(batch.prefill().run(batch.q, flat), batch.expected()[0])
    close(batch.prefill().run(batch.q, tuple(flat.unbind(1))), batch.expected()[0])


def test_plans_for_graphs_reuse_what_the_first_allocated():
    first, second = Batch([9, 4], [17, 8]), Batch([3, 9], [5, 16])
    wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(WORKSPACE, use_cuda_graph=True)
    assert wrapper.is_cuda_graph_enabled
    first.plan(wrapper, causal=True)
    kept = wrapper._batch
    addresses = [x.data_ptr() for x in (kept.q_lens, kept.kv_lens, kept.page_table)]
    second.plan(wrapper, causal=True)
    close(wrapper.run(second.q, second.cache), second.expected(mask="causal")[0])
    assert addresses == [x.data_ptr() for x in (kept.q_lens, kept.kv_lens, kept.page_table)]
    with pytest.raises(ValueError, match="kv_len=40: the first plan for CUDA graphs had 17"):
        Batch([9, 4], [40, 8]).plan(wrapper)
    with pytest.raises(ValueError, match=r"q_lens has shape \(3,\): the first .* had \(2,\)"):
        Batch([1, 1, 1], [1, 2, 3]).plan(wrapper)
    with pytest.raises(
        ValueError, match="mask_bits is given: the first plan for CUDA graphs was otherwise"
    ):
        second.plan(wrapper, custom_mask=custom(second)[0])
    close(wrapper.run(second.q, second.cache), second.expected(mask="causal")[0])


def test_requests_without_pages_have_no_keys_whatever_their_last_page():
    batch = Batch([2, 3, 1], [9, 0, 4])
    batch.pages["last"][1] = 8
    out, lse = batch.prefill().run(batch.q, batch.cache, return_lse=True)
    expected, natural = batch.expected()
    close(out, expected)
    assert (out[2:5] == 0).all()
    close_lse(lse, natural)


@pytest.mark.parametrize("order", ["NHD", "HND"])
@pytest.mark.parametrize("options, features", SETTINGS)
def test_single_prefill(order, options, features):
    batch = Batch([9], [20], order=order)
    kv = batch.ragged_kv()
    out, lse = flashinfer.single_prefill_with_kv_cache(
        batch.q, *kv, kv_layout=order, return_lse=True, **options
    )
    expected, natural = batch.expected(**features)
    close(out, expected)
    close_lse(lse, natural)


def test_single_prefill_with_masks_and_scales():
    batch = Batch([9], [21], hkv=4, dtype=E4M3)
    flat, rows = custom(batch)
    scale_v = torch.tensor([1.0, 2.0, 3.0, 4.0])
    for mask in ({"custom_mask": flat.view(9, 21)}, {"packed_custom_mask": packed(flat)}):
        out = flashinfer.single_prefill_with_kv_cache(
            batch.q, *batch.ragged_kv(), causal=True, scale_v=scale_v, k_scale=0.5, v_scale=2.0,
            o_dtype=torch.bfloat16, **mask,
        )  # fmt: skip
        expected, _ = batch.expected(bits=rows, scale=0.5 * 32**-0.5)
        close(out, 2 * scale_v.numpy()[:, None] * expected)
    _, lse = flashinfer.single_prefill_with_kv_cache_return_lse(batch.q, *batch.ragged_kv())
    close_lse(lse, batch.expected()[1])


@pytest.mark.parametrize("order", ["NHD", "HND"])
def test_single_decode(order):
    batch = Batch([1], [20], order=order)
    out, lse = flashinfer.single_decode_with_kv_cache(
        batch.q[0], *batch.ragged_kv(), kv_layout=order, window_left=7, q_scale=2.0, k_scale=0.5,
        v_scale=3.0, return_lse=True,
    )  # fmt: skip
    expected, natural = batch.expected(mask="window:7,0")
    close(out, 3 * expected[0])
    close_lse(lse, natural[0])


@pytest.mark.parametrize("order", ["NHD", "HND"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, E4M3])
def test_append_then_prefill(order, dtype):
    """The last tokens of each request are erased and written again; nothing else changes."""
    batch = Batch([9, 1, 0, 4], [17, 8, 5, 9], order=order, dtype=dtype)
    before, new = batch.cache.clone(), batch.q_lens
    keys, values = (
        torch.cat([x[len(x) - n :] for x, n in zip(side, new)]) for side in (batch.keys, batch.values)
    )
    lens = flashinfer.get_seq_lens(batch.pages["indptr"], batch.pages["last"], 8)
    assert lens.tolist() == batch.kv_lens
    requests, positions = flashinfer.get_batch_indices_positions(sums(new), lens, 16)
    expected = [(r, kv - n + i) for r, (n, kv) in enumerate(zip(new, batch.kv_lens)) for i in range(n)]
    assert list(zip(requests.tolist(), positions.tolist())) == [*expected, (-1, 0), (-1, 0)]
    places = torch.full((2, 16), 77, dtype=torch.int32)
    flashinfer.get_batch_indices_positions(sums(new), lens, 16, *places)
    assert torch.equal(places, torch.stack((requests, positions)))
    for r, position in expected:
        page = batch.pages["indices"][batch.pages["indptr"][r] + position // 8]
        slot = (slice(None), position % 8)
        batch.cache[page][slot if order == "NHD" else (slice(None), *slot)] = NAN
    padding = torch.full((2, *keys.shape[1:]), NAN).to(dtype)
    keys, values = torch.cat((keys, padding)), torch.cat((values, padding))
    cache = tuple(batch.cache.unbind(1))
    call = (keys, values, requests, positions, cache, batch.pages["indices"], batch.pages["indptr"],
            batch.pages["last"], order)  # fmt: skip
    flashinfer.append_paged_kv_cache(*call)
    assert torch.equal(batch.cache.view(torch.uint8), before.view(torch.uint8))
    flashinfer.append_paged_kv_cache(keys, values, torch.full_like(requests, -1), positions, *call[4:])
    assert torch.equal(batch.cache.view(torch.uint8), before.view(torch.uint8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cuts", [[0, 20], [0, 7, 20], [0, 0, 1, 13, 20, 20]])
def test_merged_parts_are_the_whole(dtype, cuts):
    batch = Batch([9], [20], dtype=dtype)
    k, v = batch.ragged_kv()
    parts = [
        flashinfer.single_prefill_with_kv_cache(batch.q, k[a:b], v[a:b], return_lse=True)
        for a, b in zip(cuts, cuts[1:])
    ]
    outs = torch.stack([out for out, _ in parts], dim=1)
    lses = torch.stack([lse for _, lse in parts], dim=1)
    empty = [i for i, (a, b) in enumerate(zip(cuts, cuts[1:])) if a == b]
    outs[:, empty] = NAN  # what a part without keys holds does not matter
    merged, lse = flashinfer.merge_states(outs, lses)
    expected, natural = batch.expected()
    assert merged.dtype == dtype and lse.dtype == torch.float32
    close(merged, expected)
    close_lse(lse, natural)
    if len(parts) == 2:
        pair = flashinfer.merge_state(*parts[0], *parts[1])
        assert torch.equal(pair[0], merged) and torch.equal(pair[1], lse)


def test_merging_nothing_is_nothing():
    out, lse = flashinfer.merge_states(torch.full((3, 2, 4, 8), NAN), torch.full((3, 2, 4), -math.inf))
    assert (out == 0).all() and (lse == -math.inf).all()
    out, lse = flashinfer.merge_states(torch.empty(3, 0, 4, 8), torch.empty(3, 0, 4))
    assert (out == 0).all() and (lse == -math.inf).all()


# What is refused.


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"pos_encoding_mode": "ROPE_LLAMA"}, UnsupportedError, "ROPE_LLAMA.*does not rotate"),
        ({"pos_encoding_mode": "rope"}, ValueError, "pos_encoding_mode='rope'"),
        ({"pos_encoding_mode": "ALIBI", "logits_soft_cap": 3.0}, UnsupportedError, "cap=3.0"),
        ({"prefix_len_ptr": torch.ones(2)}, UnsupportedError, "prefix_len_ptr.*multi-item"),
        ({"custom_mask": torch.ones(5)}, ValueError, "custom_mask has 5 entries: must have 185"),
        ({"window_left": -3}, ValueError, "window_left=-3"),
        ({"logits_soft_cap": -1.0}, ValueError, "logits_soft_cap=-1"),
        ({"sm_scale": NAN}, ValueError, "sm_scale=nan"),
        ({"q_data_type": "float17"}, ValueError, "q_data_type='float17'"),
        ({"seq_lens": torch.tensor([17, 9])}, ValueError, r"seq_lens=\[17, 9\].*\[17, 8\]"),
        ({"seq_lens_q": torch.tensor([9, 9])}, ValueError, r"seq_lens_q=\[9, 9\].*\[9, 4\]"),
    ],
)
def test_plans_that_are_refused_leave_the_last_one(options, error, message):
    batch = Batch([9, 4], [17, 8])
    for kind, kv in (("prefill", (batch.cache,)), ("ragged", batch.ragged_kv())):
        wrapper = getattr(batch, kind)(causal=True)
        with pytest.raises(error, match=message):
            batch.plan(wrapper, **options)
        close(wrapper.run(batch.q, *kv), batch.expected(mask="causal")[0])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"indptr": torch.tensor([0, 3, 2])}, r"paged_kv_indptr\[2\]=2: must be at least"),
        ({"indptr": torch.tensor([0, 3, 9])}, r"paged_kv_indptr\[-1\]=9: paged_kv_indices has 4"),
        ({"indptr": torch.tensor([0, 3])}, "indptr has 2 entries: must have 3"),
        ({"last": torch.tensor([1, 9])}, r"last_page_len\[1\]=9: must be from 1 to page_size=8"),
        ({"last": torch.tensor([0, 8])}, r"last_page_len\[0\]=0: must be from 1"),
    ],
)
def test_page_lists_that_are_refused(change, message):
    batch = Batch([1, 1], [17, 8])
    batch.pages |= change
    for kind in ("prefill", "decode"):
        with pytest.raises(ValueError, match=message):
            getattr(batch, kind)()


def test_runs_that_are_refused():
    batch = Batch([9, 4], [17, 8])
    out = torch.full_like(batch.q, NAN)
    wrapper = batch.prefill()
    q, cache = batch.q, batch.cache
    alibi = batch.prefill(pos_encoding_mode="ALIBI")
    masked = batch.prefill(custom_mask=custom(batch)[0])
    run = wrapper.run
    for refused, error, message in [
        (lambda: run(q[:8], cache, out=out), ValueError, r"shape \(8, 4, 32\).*\(13, 4, 32\)"),
        (lambda: run(q.half(), cache, out=out), ValueError, "q is torch.float16: the plan says"),
        (lambda: run(q, cache.half(), out=out), ValueError, "k is torch.float16: the plan says"),
        (lambda: run(q, cache[:, :, :4], out=out), ValueError, "of 4 tokens: the plan says 8"),
        (lambda: run(q, cache[..., :1, :], out=out), ValueError, "1 heads of 32 and 32: the plan"),
        (lambda: run(q, cache[:, 0], out=out), ValueError, "paged_kv_cache is"),
        (lambda: run(q, cache[:1], out=out), ValueError, r"page_table.*pool has 1"),
        (lambda: run(q, cache, out=out.half()), ValueError, "out is torch.float16"),
        (lambda: run(q, cache, out=out, lse=torch.empty(4, 13)), ValueError, r"lse is .*\(13, 4\)"),
        (lambda: run(q, cache, out=out, lse_base="e"), ValueError, "lse_base='e'"),
        (lambda: run(q, cache, out=out, lse_layout="TH"), ValueError, "lse_layout='TH'"),
        (lambda: run(q, cache, out=out, kv_cache_sf=1), UnsupportedError, "NVFP4"),
        (lambda: run(q, cache, 1.0, out=out), UnsupportedError, "1 arguments for a custom"),
        (lambda: run(q.to("meta"), cache, out=out), ValueError, "q is on meta"),
        (lambda: alibi.run(q, cache, sinks=torch.ones(4), out=out), UnsupportedError, "sinks with"),
        (lambda: masked.run(q, cache, window_left=3, out=out), UnsupportedError, "window_left=3 with"),
    ]:  # fmt: skip
        with pytest.raises(error, match=message):
            refused()
        assert out.isnan().all()
    with pytest.raises(ValueError, match="run before plan"):
        flashinfer.BatchPrefillWithPagedKVCacheWrapper(WORKSPACE).run(q, cache)
    with pytest.raises(ValueError, match="kv_layout='DHN'"):
        flashinfer.BatchPrefillWithPagedKVCacheWrapper(WORKSPACE, "DHN")
    with pytest.raises(UnsupportedError, match="jit_args is given"):
        flashinfer.BatchPrefillWithPagedKVCacheWrapper(WORKSPACE, jit_args=["a"])


def test_decodes_that_are_refused():
    batch = Batch([1, 1], [17, 8])
    wrapper = batch.decode(window_left=4)
    run = wrapper.run
    for refused, error, message in [
        (lambda: run(batch.q, batch.cache, window_left=5), ValueError, "=5: the plan says 4"),
        (lambda: run(batch.q, batch.cache, q_len_per_req=2), ValueError, "q_len_per_req=2"),
        (lambda: batch.decode(window_right=3), UnsupportedError, "window_right=3"),
        (lambda: batch.decode(is_causal=True), UnsupportedError, "is_causal=True"),
        (lambda: batch.decode(seq_lens=torch.tensor([1, 2])), ValueError, r"seq_lens=\[1, 2\]"),
        (lambda: batch.plan(wrapper, num_kv_heads=3), TypeError, "multiple values"),
    ]:  # fmt: skip
        with pytest.raises(error, match=message):
            refused()
    batch.heads = (4, 3, 32)
    with pytest.raises(ValueError, match="num_qo_heads=4: must be a multiple of num_kv_heads=3"):
        batch.decode()


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"append_key": torch.zeros(2, 2, 16)},
            r"append_key has shape \(2, 2, 16\): must be \(2, 2, 32\)",
        ),
        ({"append_value": torch.zeros(2, 2, 32).half()}, "append_value is torch.float16: the cache is"),
        ({"batch_indices": torch.tensor([0, 2])}, r"batch_indices\[1\]=2: there are 2 requests"),
        ({"batch_indices": torch.tensor([0, -2])}, r"batch_indices\[1\]=-2"),
        ({"batch_indices": torch.tensor([0])}, "batch_indices has 1 entries: must have 2"),
        ({"positions": torch.tensor([0, 8])}, r"positions\[1\]=8: request 1 has room for 8 tokens"),
        ({"positions": torch.tensor([-1, 0])}, r"positions\[0\]=-1"),
        ({"kv_indices": torch.tensor([0, 1, 99, 3])}, "names page 99: the pool has 6 pages"),
        ({"kv_last_page_len": torch.tensor([1, 0])}, r"last_page_len\[1\]=0"),
        ({"kv_layout": "nhd"}, "kv_layout='nhd'"),
    ],
)
def test_appends_that_are_refused_write_nothing(change, message):
    batch = Batch([1, 1], [17, 8])
    before = batch.cache.clone()
    call = {
        "append_key": torch.ones(2, 2, 32), "append_value": torch.ones(2, 2, 32),
        "batch_indices": torch.tensor([0, 1]), "positions": torch.tensor([16, 7]),
        "paged_kv_cache": batch.cache, "kv_indices": batch.pages["indices"],
        "kv_indptr": batch.pages["indptr"], "kv_last_page_len": batch.pages["last"],
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        flashinfer.append_paged_kv_cache(**call | change)
    assert torch.equal(batch.cache.view(torch.uint8), before.view(torch.uint8))


def test_places_that_are_refused():
    given, lens = sums([2, 1]), torch.tensor([4, 4], dtype=torch.int32)
    place = torch.full((3,), 77, dtype=torch.int32)
    for places, message in [
        ((place[:2], None), r"batch_indices is torch.int32 \(2,\): must be torch.int32 \(3,\)"),
        ((place, place.long()), r"positions is torch.int64 \(3,\)"),
        ((place, place.to("meta")), "positions is on meta: append_indptr is on cpu"),
    ]:
        with pytest.raises(ValueError, match=message):
            flashinfer.get_batch_indices_positions(given, lens, 3, *places)
    assert (place == 77).all()


def test_merges_that_are_refused():
    v, s = torch.zeros(3, 2, 4, 8), torch.zeros(3, 2, 4)
    with pytest.raises(ValueError, match=r"s has shape \(3, 1, 4\): must be \(3, 2, 4\)"):
        flashinfer.merge_states(v, s[:, :1])
    with pytest.raises(ValueError, match=r"\(2, 4, 8\) and \(2, 4\): must be as v_a"):
        flashinfer.merge_state(v[:, 0], s[:, 0], v[:2, 0], s[:2, 0])
    with pytest.raises(ValueError, match="v_b is torch.float16: must be as v_a"):
        flashinfer.merge_state(v[:, 0], s[:, 0], v[:, 1].half(), s[:, 1])
