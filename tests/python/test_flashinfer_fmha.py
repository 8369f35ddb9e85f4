"""octavo.flashinfer.trtllm_fmha_v2_prefill against the definition: every layout, and each line of the
table of differences in docs/flashinfer.md."""

import inspect
import math

import numpy as np
import oracle
import pytest
import torch

import octavo
from octavo.flashinfer import trtllm_fmha_v2_prefill

NAN = float("nan")
LAYOUTS = ["PACKED_QKV", "CONTIGUOUS_Q_KV", "SEPARATE_Q_K_V", "Q_PAGED_KV_NHD", "Q_PAGED_KV_HND"]
HALVES = [torch.float16, torch.bfloat16]
E4M3 = torch.float8_e4m3fn


def sums(lengths):
    return torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)


class Batch:
    """Random requests; unused page slots, pages and table entries hold NaN or nonsense."""

    def __init__(self, q_lens, kv_lens=None, hq=4, hkv=2, d=32, dtype=torch.float16, page=16, seed=0,
                 spread=1.0):  # fmt: skip
        kv_lens = q_lens if kv_lens is None else kv_lens
        self.q_lens, self.kv_lens, self.page, self.d = list(q_lens), list(kv_lens), page, d
        self.generator = torch.Generator().manual_seed(seed)
        draw = lambda *shape: (self.random(*shape) * spread).to(dtype)  # noqa: E731
        self.q = draw(sum(q_lens), hq, d)
        self.keys = [draw(n, hkv, d) for n in kv_lens]
        self.values = [draw(n, hkv, d) for n in kv_lens]

    def random(self, *shape):
        return torch.randn(shape, generator=self.generator)

    def pages(self, order):
        """K's and V's pools and the table."""
        pools = []
        for tokens in (self.keys, self.values):
            as_numbers = [x.float().numpy() for x in tokens]
            pool, table = oracle.paged(as_numbers, self.page, order, seed=3)
            pools.append(torch.from_numpy(pool).to(self.q.dtype))
        return *pools, torch.from_numpy(table)

    def inputs(self, layout):
        """qkv, and block_tables where the layout has them."""
        k, v = torch.cat(self.keys), torch.cat(self.values)
        if layout == "PACKED_QKV":
            return {"qkv": torch.stack((self.q, k, v), dim=1)}
        if layout == "CONTIGUOUS_Q_KV":
            return {"qkv": (self.q, torch.stack((k, v), dim=1))}
        if layout == "SEPARATE_Q_K_V":
            return {"qkv": (self.q, k, v)}
        k, v, table = self.pages(layout[-3:].lower())
        return {"qkv": (self.q, torch.stack((k, v), dim=1)), "block_tables": table}

    def call(self, layout, **changes):
        """All arguments, by name."""
        inputs = {} if "qkv" in changes else self.inputs(layout)
        return {
            "input_layout": layout,
            "workspace_buffer": None,
            "seq_lens": torch.tensor(self.kv_lens, dtype=torch.int32),
            "max_q_len": max(self.q_lens),
            "max_kv_len": max(self.kv_lens),
            "bmm1_scale": self.d**-0.5,
            "bmm2_scale": 1.0,
            "batch_size": len(self.q_lens),
            "cum_seq_lens_q": sums(self.q_lens),
            "cum_seq_lens_kv": sums(self.kv_lens),
            **inputs,
            **changes,
        }

    def run(self, layout, **changes):
        """Into a poisoned `out` unless out or out_dtype says otherwise."""
        if "out" not in changes and "out_dtype" not in changes:
            changes["out"] = torch.full_like(self.q, NAN)
        return trtllm_fmha_v2_prefill(**self.call(layout, **changes))

    def expected(self, **features):
        """Output and LSE, in double precision."""
        keys, values = ([x.double().numpy() for x in side] for side in (self.keys, self.values))
        features = {"mask": "causal"} | features
        return oracle.attention(
            self.q.double().numpy(), keys, values, self.q_lens, self.kv_lens, oracle.Features(**features)
        )


def close(actual, expected, dtype=None):
    eps = {E4M3: 2**-3}.get(dtype or actual.dtype) or torch.finfo(dtype or actual.dtype).eps
    actual = actual.double().numpy()
    assert np.isfinite(actual).all()
    bound = max(2 * eps, 2e-6)
    np.testing.assert_allclose(actual, expected, rtol=bound, atol=bound * max(1, abs(expected).max()))


def lse_of(statistics, scale, d, cap=None):
    """As FlashInfer's tests combine the two."""
    unit = math.sqrt(d) * (scale if cap is None else 1)
    return (statistics[..., 0] * unit + torch.log(statistics[..., 1])).double().numpy()


def slopes(heads):
    """As the ALiBi paper has them."""
    power = 2 ** int(math.log2(heads))
    first = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    between = [2 ** (-4 * (i + 1) / power) for i in range(0, 2 * (heads - power), 2)]
    return np.array(first + between)


# What FlashInfer does, in every layout.


def test_signature_is_flashinfers():
    names = list(inspect.signature(trtllm_fmha_v2_prefill).parameters)
    assert names == [
        "qkv", "input_layout", "workspace_buffer", "seq_lens", "max_q_len", "max_kv_len", "bmm1_scale",
        "bmm2_scale", "batch_size", "cum_seq_lens_q", "cum_seq_lens_kv", "block_tables", "out",
        "out_dtype", "sinks", "pos_encoding_mode", "logits_soft_cap_scale", "mask_mode", "window_left",
        "chunked_attention_size", "save_softmax_stats", "skip_softmax_threshold_scale_factor",
    ]  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [*HALVES, E4M3, torch.float32])
@pytest.mark.parametrize(
    "options, mask",
    [
        ({}, "causal"),
        ({"mask_mode": "PADDING"}, "none"),
        ({"mask_mode": "SLIDING_WINDOW", "window_left": 5}, "window:5,0"),
        ({"mask_mode": "sliding_window"}, "causal"),
        ({"mask_mode": "chunked", "chunked_attention_size": 16}, "chunked:16"),
        ({"mask_mode": "causal", "window_left": 3}, "window:3,0"),
        ({"mask_mode": "causal", "chunked_attention_size": 4}, "chunked:4"),
    ],
)
def test_masks_in_every_layout(layout, dtype, options, mask):
    batch = Batch([33, 1, 17, 9], hkv=4, dtype=dtype)
    out = torch.full(batch.q.shape, NAN, dtype=torch.bfloat16 if dtype == E4M3 else dtype)
    assert batch.run(layout, out=out, **options) is out
    close(out, batch.expected(mask=mask)[0])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("cap", [None, 0, 3.0])
@pytest.mark.parametrize("alibi", [None, "ALiBi"])
@pytest.mark.parametrize("heads", [4, 6])
def test_features_and_statistics(layout, cap, alibi, heads):
    batch = Batch([21, 8], hq=heads, hkv=heads, dtype=torch.float32, spread=1.5)
    sinks = batch.random(heads) * 2
    scale = 0.3
    out, statistics = batch.run(
        layout, bmm1_scale=scale, bmm2_scale=0.5, logits_soft_cap_scale=cap, pos_encoding_mode=alibi,
        sinks=sinks, save_softmax_stats=True,
    )  # fmt: skip
    features = {"cap": cap or None, "scale": scale, "slopes": alibi and slopes(heads)}
    close(out, 0.5 * batch.expected(sinks=sinks.numpy(), **features)[0])
    _, lse = batch.expected(**features)  # statistics count no sink
    np.testing.assert_allclose(lse_of(statistics, scale, 32, cap or None), lse, rtol=1e-5, atol=1e-5)
    assert statistics.dtype == torch.float32 and statistics.shape == (29, heads, 2)


@pytest.mark.parametrize("cap", [None, 2.0])
def test_the_largest_logit_is_exact(cap):
    batch = Batch([19], hq=2, hkv=2, dtype=torch.float32)
    for keys in (batch.keys[0], torch.zeros_like(batch.keys[0])):  # zeros: all logits tie
        batch.keys[0] = keys
        _, statistics = batch.run(
            "SEPARATE_Q_K_V", save_softmax_stats=True, logits_soft_cap_scale=cap, bmm1_scale=0.7
        )
        scores = torch.einsum("ihd,jhd->ihj", batch.q.double(), keys.double())
        hidden = torch.ones(19, 19).triu(1).bool()[:, None]
        largest = scores.masked_fill(hidden, -math.inf).amax(-1)
        if cap is not None:
            largest = cap * torch.tanh(largest * 0.7 / cap)
        expected = (largest / math.sqrt(32)).float()
        torch.testing.assert_close(statistics[..., 0], expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("layout", ["PACKED_QKV", "Q_PAGED_KV_HND"])
@pytest.mark.parametrize("result", [E4M3, *HALVES, None])
def test_e4m3_and_its_scales(layout, result):
    batch = Batch([25, 3], hkv=4, dtype=E4M3)
    named = {"out_dtype": result and str(result).removeprefix("torch.")}
    out = batch.run(layout, bmm1_scale=0.5 * 32**-0.5, bmm2_scale=3.0, **named)
    assert out.dtype == (result or E4M3)
    close(out, 3 * batch.expected(scale=0.5 * 32**-0.5)[0])


def test_the_dtype_of_out_wins_over_out_dtype():
    batch = Batch([9], hkv=4, dtype=E4M3)
    out = torch.empty(batch.q.shape, dtype=torch.float16)
    assert batch.run("PACKED_QKV", out=out, out_dtype=torch.bfloat16) is out
    close(out, batch.expected()[0])


@pytest.mark.parametrize("order", ["NHD", "HND"])
@pytest.mark.parametrize("own_order", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, E4M3])
def test_pools_apart_in_one_allocation(order, own_order, dtype):
    batch = Batch([9, 30], [40, 33], page=8, dtype=dtype)
    k, v, table = batch.pages(order.lower())
    count = len(k)
    both = torch.full((2 * count + 3, *k.shape[1:]), NAN).to(dtype)
    k_cache, v_cache = both[:count], both[count + 3 :]
    k_cache.copy_(k)
    places = torch.randperm(count, generator=batch.generator) if own_order else torch.arange(count)
    v_cache[places] = v
    used = torch.arange(table.shape[1]) * 8 < torch.tensor(batch.kv_lens)[:, None]
    v_table = torch.where(used, places[table.clamp(0, count - 1)] + count + 3, 12345).int()
    tables = torch.stack((table, v_table), dim=1)
    call = {"qkv": (batch.q, (k_cache, v_cache)), "block_tables": tables, "out_dtype": torch.float16}
    close(batch.run(f"Q_PAGED_KV_{order}", **call), batch.expected()[0])


def test_zero_bmm1_scale_is_the_usual_one_and_bounds_may_be_loose():
    batch = Batch([9, 4], [20, 4])
    out = batch.run("Q_PAGED_KV_NHD", bmm1_scale=0.0, max_q_len=1000, max_kv_len=5000)
    close(out, batch.expected()[0])


def test_numpys_numbers_are_numbers():
    batch = Batch([9, 4])
    out = batch.run("SEPARATE_Q_K_V", batch_size=np.int32(2), max_q_len=np.int64(9),
                    bmm1_scale=np.float32(32**-0.5), window_left=np.int64(3))  # fmt: skip
    close(out, batch.expected(mask="window:3,0")[0])


def test_sinks_as_flashinfer_annotates_them():
    batch = Batch([9])
    expected = batch.expected(sinks=np.array([1.0, -2.0, 0.5, 3.0]))[0]
    logits = torch.tensor([1.0, -2.0, 0.5, 3.0])
    for sinks in (logits, [logits], list(logits), logits.tolist(), logits.double()):
        close(batch.run("SEPARATE_Q_K_V", sinks=sinks), expected)


# What differs from FMHAv2: the table in docs/flashinfer.md, in its order.


@pytest.mark.parametrize("kv_len", [1, 5, 8, 9, 15, 16, 17, 25, 33])
@pytest.mark.parametrize("layout", ["Q_PAGED_KV_NHD", "Q_PAGED_KV_HND"])
def test_sequences_under_a_page_and_nan_after_them(layout, kv_len):
    batch = Batch([min(8, kv_len)], [kv_len])
    assert any(x.isnan().any() for x in batch.pages("nhd")[:2])
    close(batch.run(layout), batch.expected()[0])


@pytest.mark.parametrize("layout", LAYOUTS[1:])
@pytest.mark.parametrize(
    "options, mask",
    [
        ({}, "causal"),
        ({"chunked_attention_size": 64}, "chunked:64"),
        ({"window_left": 70}, "window:70,0"),
    ],
)
def test_more_keys_than_queries(layout, options, mask):
    batch = Batch([9, 1, 70], [200, 77, 150])
    close(batch.run(layout, **options), batch.expected(mask=mask)[0])


@pytest.mark.parametrize("layout", LAYOUTS[1:])
@pytest.mark.parametrize("sinks", [False, True])
def test_more_queries_than_keys_and_none(layout, sinks):
    batch = Batch([9, 4, 0], [5, 0, 7])
    logits = torch.tensor([0.1, 2.0, -1.0, 0.0]) if sinks else None
    out, statistics = batch.run(layout, sinks=logits, save_softmax_stats=True)
    close(out, batch.expected(sinks=logits if logits is None else logits.numpy())[0])
    assert (out[:4] == 0).all() and (out[9:] == 0).all()  # no key before the fifth query's position
    lse = batch.expected()[1]
    assert (lse[:4] == -np.inf).all()
    np.testing.assert_allclose(lse_of(statistics, 32**-0.5, 32), lse, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mode", ["causal", "sliding_window"])
def test_a_window_of_the_key_itself(layout, mode):
    batch = Batch([9, 33], hkv=4)
    out = batch.run(layout, mask_mode=mode, window_left=0)
    torch.testing.assert_close(out, torch.cat(batch.values))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [1, 3, 7, 48, 1000])
def test_chunks_of_any_size(layout, size):
    batch = Batch([50, 9], hkv=4)
    out = batch.run(layout, mask_mode="chunked", chunked_attention_size=size)
    close(out, batch.expected(mask=f"chunked:{size}")[0])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", HALVES)
def test_bmm2_scale_of_16_bit_types(layout, dtype):
    batch = Batch([9], hkv=4, dtype=dtype)
    close(batch.run(layout, bmm2_scale=0.37), 0.37 * batch.expected()[0])


@pytest.mark.parametrize("page", [1, 3, 16, 100])
@pytest.mark.parametrize("d", [16, 40, 80, 576])
def test_any_page_size_and_head_dim(page, d):
    batch = Batch([20], [41], d=d, page=page)
    close(batch.run("Q_PAGED_KV_NHD"), batch.expected()[0])


def test_values_of_another_head_dim():
    batch = Batch([20], [41], d=48)
    batch.values = [x[..., :32].contiguous() for x in batch.values]
    out = trtllm_fmha_v2_prefill(**batch.call("SEPARATE_Q_K_V"))
    assert out.shape == (20, 4, 32)
    close(out, batch.expected()[0])


@pytest.mark.parametrize("hq, hkv", [(4, 4), (6, 2), (5, 1)])
def test_groups_in_packed(hq, hkv):
    batch = Batch([9, 21], hq=hq, hkv=hkv)
    packed = torch.cat((batch.q, torch.cat(batch.keys), torch.cat(batch.values)), dim=1)
    expected = batch.expected()[0]
    close(batch.run("PACKED_QKV", qkv=packed), expected)
    views = packed.split((hq, hkv, hkv), dim=1)
    close(batch.run("PACKED_QKV", qkv=views, out_dtype=torch.float16), expected)


def test_separate_takes_soft_caps_and_e4m3():
    batch = Batch([9, 21], dtype=E4M3)
    out = batch.run("SEPARATE_Q_K_V", logits_soft_cap_scale=2.0, out_dtype="bfloat16")
    close(out, batch.expected(cap=2.0)[0])


def test_alibi_is_relative_to_the_query():
    """Sinks and statistics then do not depend on where in a sequence a query stands."""
    batch = Batch([4], [40], dtype=torch.float32)
    sinks = torch.tensor([1.0, -2.0, 0.5, 3.0])
    out = batch.run("Q_PAGED_KV_NHD", pos_encoding_mode="alibi", sinks=sinks)
    close(out, batch.expected(slopes=slopes(4), sinks=sinks.numpy())[0])


def test_the_skip_softmax_factor_changes_no_bit():
    batch = Batch([90], [300])
    exact = batch.run("Q_PAGED_KV_NHD")
    assert torch.equal(batch.run("Q_PAGED_KV_NHD", skip_softmax_threshold_scale_factor=1e4), exact)


def test_rows_past_the_last_request_stay_untouched():
    batch = Batch([5, 3])
    out = torch.full((12, 4, 32), NAN, dtype=torch.float16)
    padded = torch.cat((batch.q, torch.full_like(batch.q[:4], NAN)))
    qkv = (padded, *batch.inputs("SEPARATE_Q_K_V")["qkv"][1:])
    batch.run("SEPARATE_Q_K_V", qkv=qkv, out=out)
    close(out[:8], batch.expected()[0])
    assert out[8:].isnan().all()


# Bad input.

PAGED = "Q_PAGED_KV_NHD"


def halves_apart(batch):
    k, v, table = batch.pages("nhd")
    return (batch.q, (k, v)), table


@pytest.mark.parametrize(
    "layout, change, message",
    [
        ("Q_K_V", {}, "input_layout='Q_K_V': must be one of PACKED_QKV"),
        ("PACKED_QKV", {"qkv": torch.zeros(9, 4, 4, 32)}, r"\(9, 4, 4, 32\): must be \[tokens, 3"),
        ("PACKED_QKV", {"qkv": torch.zeros(9, 7, 32)}, "qkv has 7 heads and out 4"),
        ("CONTIGUOUS_Q_KV", {"qkv": torch.zeros(9, 3, 4, 32)}, "qkv is Tensor: .* wants a tuple of 2"),
        ("SEPARATE_Q_K_V", {"qkv": (torch.zeros(9, 4, 32),) * 2}, "2 items.* wants a tuple of 3"),
        ("SEPARATE_Q_K_V", {"seq_lens": torch.tensor([8])}, r"seq_lens\[0\]=8: cum_seq_lens_kv says 9"),
        ("SEPARATE_Q_K_V", {"seq_lens": torch.tensor([9, 9])}, "seq_lens has 2 entries: must have 1"),
        ("SEPARATE_Q_K_V", {"seq_lens": torch.tensor([9.0])}, "seq_lens is torch.float32"),
        ("SEPARATE_Q_K_V", {"cum_seq_lens_q": sums([10]), "max_q_len": 10}, "q has 9 rows"),
        ("SEPARATE_Q_K_V", {"cum_seq_lens_q": torch.tensor([1, 9])}, r"cum_seq_lens_q\[0\]=1: must be 0"),
        ("SEPARATE_Q_K_V", {"cum_seq_lens_q": torch.tensor([0, -2])}, r"cum_seq_lens_q\[1\]=-2"),
        ("SEPARATE_Q_K_V", {"max_q_len": 8}, "max_q_len=8: a request has 9 tokens"),
        ("SEPARATE_Q_K_V", {"max_kv_len": 3}, "max_kv_len=3: a request has 9 tokens"),
        ("SEPARATE_Q_K_V", {"max_kv_len": 9.5}, "max_kv_len is a float"),
        ("SEPARATE_Q_K_V", {"batch_size": -1}, "batch_size=-1"),
        ("SEPARATE_Q_K_V", {"batch_size": 2}, "seq_lens has 1 entries: must have 2"),
        (
            "SEPARATE_Q_K_V",
            {"cum_seq_lens_kv": sums([10]), "seq_lens": torch.tensor([10]), "max_kv_len": 10},
            r"cum_seq_lens_kv\[-1\]=10: there are keys of 9 tokens",
        ),
        ("SEPARATE_Q_K_V", {"bmm1_scale": NAN}, "bmm1_scale=nan"),
        ("SEPARATE_Q_K_V", {"bmm2_scale": math.inf}, "bmm2_scale=inf"),
        ("SEPARATE_Q_K_V", {"bmm1_scale": torch.ones(1)}, "bmm1_scale is a Tensor"),
        ("SEPARATE_Q_K_V", {"logits_soft_cap_scale": -3.0}, "logits_soft_cap_scale=-3"),
        ("SEPARATE_Q_K_V", {"mask_mode": "causl"}, "mask_mode='causl'"),
        ("SEPARATE_Q_K_V", {"mask_mode": "padding", "window_left": 0}, "window_left=0: .*padding"),
        ("SEPARATE_Q_K_V", {"mask_mode": "padding", "chunked_attention_size": 8}, "attention_size=8"),
        ("SEPARATE_Q_K_V", {"window_left": -2}, "window_left=-2"),
        ("SEPARATE_Q_K_V", {"window_left": 3, "chunked_attention_size": 8}, "window_left=3 and .*=8"),
        ("SEPARATE_Q_K_V", {"chunked_attention_size": -8}, "chunked_attention_size=-8"),
        ("SEPARATE_Q_K_V", {"pos_encoding_mode": "ROPE_LLAMA"}, "pos_encoding_mode='ROPE_LLAMA'"),
        ("SEPARATE_Q_K_V", {"pos_encoding_mode": "alibi", "mask_mode": "padding"}, "say mask_mode='causal'"),
        ("SEPARATE_Q_K_V", {"sinks": torch.zeros(3)}, r"sinks \(size\) is 3"),
        ("SEPARATE_Q_K_V", {"sinks": 1.0}, "sinks is a float"),
        ("SEPARATE_Q_K_V", {"skip_softmax_threshold_scale_factor": -1}, "factor=-1"),
        (PAGED, {"block_tables": None}, "block_tables is a NoneType"),
        (PAGED, {"block_tables": torch.zeros(1, 1, dtype=torch.int64)}, "block_tables is torch.int64"),
        (PAGED, {"block_tables": torch.zeros(2, 1, dtype=torch.int32)}, "2 rows: batch_size is 1"),
        (PAGED, {"block_tables": torch.zeros(1, 2, 1, dtype=torch.int32)}, r"\(1, 2, 1\): must have 2"),
        (PAGED, {"block_tables": torch.zeros(1, 0, dtype=torch.int32)}, "needs 1 pages"),
        (PAGED, {"block_tables": torch.tensor([[3]], dtype=torch.int32)}, r"=3.*pool has 3"),
        (PAGED, {"block_tables": torch.tensor([[-1]], dtype=torch.int32)}, r"=-1.*pool has 3"),
    ],
)  # fmt: skip
def test_bad_input(layout, change, message):
    batch = Batch([9], hkv=4)
    out = torch.full_like(batch.q, NAN)
    call = batch.call("SEPARATE_Q_K_V" if layout == "Q_K_V" else layout) | change
    with pytest.raises(ValueError, match=message):
        trtllm_fmha_v2_prefill(**call | {"input_layout": layout, "out": out})
    assert out.isnan().all()


@pytest.mark.parametrize("q, kv, out", [
    (torch.bfloat16, torch.float16, torch.bfloat16),
    (torch.bfloat16, E4M3, torch.bfloat16),
    (E4M3, torch.bfloat16, torch.bfloat16),
    (torch.float16, torch.float16, torch.float32),
    (torch.float16, torch.float16, torch.bfloat16),
    (E4M3, E4M3, torch.float32),
    (torch.float64, torch.float64, torch.float64),
])  # fmt: skip
def test_dtypes_that_fmhav2_would_misread(q, kv, out):
    batch = Batch([9])
    qkv = (batch.q.to(q), batch.keys[0].to(kv), batch.values[0].to(kv))
    result = torch.full(batch.q.shape, 7.0).to(out)
    wrong = "out" if q == kv and q != torch.float64 else "k" if q != kv else "q"
    with pytest.raises(ValueError, match=f"{wrong} is "):
        batch.run("SEPARATE_Q_K_V", qkv=qkv, out=result)
    assert (result.float() == 7).all()


def test_outputs_of_another_shape_are_refused():
    batch = Batch([9])
    out = torch.full((9, 4, 16), NAN, dtype=torch.float16)
    with pytest.raises(ValueError, match="out.*16"):
        batch.run("SEPARATE_Q_K_V", out=out)
    assert out.isnan().all()


def test_pools_apart_that_do_not_fit():
    batch = Batch([9], page=4)
    k, v, table = batch.pages("nhd")
    tables = torch.stack((table, table), dim=1)
    both = torch.zeros(2, *k.shape, dtype=k.dtype)
    shifted = torch.zeros(2 * k.numel() + 8, dtype=k.dtype)[8 + k.numel() :].view(k.shape)
    near = torch.as_strided(shifted, k.shape, k.stride(), storage_offset=0)
    far = tables + torch.tensor([0, len(k)], dtype=torch.int32)[:, None]
    beyond = far.clone()
    beyond[0, 1, 0] = 2 * len(k)
    for pools, given, message in [
        ((both[0], both[1]), table, r"must have 3 dimensions"),
        ((both[0], both[1]), far[:, :1], r"wants \[batch_size, 2, columns\]"),
        ((both[0], both[1]), beyond, f"names page {len(k)} of V's pool: it has {len(k)} pages"),
        ((both[0], both[1, :2]), far, "v_cache is .* must be as k_cache"),
        ((both[0].transpose(1, 2), both[1].transpose(1, 2)), far, "k_cache has strides"),
        ((near, shifted), far, "bytes after k_cache: must be a multiple of a page"),
        ((both[0],), far, "paged_kv is 1 items"),
    ]:
        with pytest.raises(ValueError, match=message):
            batch.run("Q_PAGED_KV_NHD", qkv=(batch.q, pools), block_tables=given)


def test_devices_that_differ_are_refused():
    batch = Batch([9])
    for name in ("seq_lens", "cum_seq_lens_q", "cum_seq_lens_kv", "sinks"):
        value = batch.call("SEPARATE_Q_K_V").get(name, torch.zeros(4))
        with pytest.raises(ValueError, match=f"{name} is on meta: q is on cpu"):
            batch.run("SEPARATE_Q_K_V", **{name: value.to("meta")})


def test_errors_are_octavos():
    with pytest.raises(octavo.InvalidArgumentError):
        Batch([9]).run("SEPARATE_Q_K_V", mask_mode="custom")
