"""octavo.attention on numpy arrays against the definition."""

import random
import threading

import ml_dtypes
import numpy as np
import oracle
import pytest

import octavo
from octavo._bounds import Bounds

DTYPES = {
    "f32": (np.float32, 2e-6),
    "f16": (np.float16, 2e-3),
    "bf16": (ml_dtypes.bfloat16, 1.6e-2),
    "e4m3": (ml_dtypes.float8_e4m3fn, 1.6e-2),
    "e5m2": (ml_dtypes.float8_e5m2, 1.6e-2),
}
KERNELS = octavo.kernels()


class Case:
    """Random requests, with their keys as lists, as pages and back to back."""

    def __init__(self, q_lens, kv_lens, hq=6, hkv=2, d=32, dtype=np.float32, page=16, order="nhd",
                 seed=1):
        rng = np.random.default_rng(seed)
        draw = lambda *shape: rng.standard_normal(shape).astype(dtype)  # noqa: E731
        self.q_lens, self.kv_lens = q_lens, kv_lens
        self.q = draw(sum(q_lens), hq, d)
        self.keys = [draw(n, hkv, d) for n in kv_lens]
        self.values = [draw(n, hkv, d) for n in kv_lens]
        self.k, self.table = oracle.paged(self.keys, page, order)
        self.v, _ = oracle.paged(self.values, page, order)  # the same seed: the same pages
        self.order = order
        self.rng = rng

    def run(self, **options):
        return octavo.attention(
            self.q, self.k, self.v, q_lens=self.q_lens, kv_lens=self.kv_lens,
            page_table=self.table, order=self.order, **options,
        )  # fmt: skip

    def expected(self, **features):
        return oracle.attention(
            self.q, self.keys, self.values, self.q_lens, self.kv_lens, oracle.Features(**features)
        )


def close(actual, expected, bound=2e-6):
    actual = np.asarray(actual, np.float64)
    assert np.isfinite(actual).all()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=bound * max(1, abs(expected).max()))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ["nhd", "hnd"])
def test_paged_dtypes(kernel, dtype, order):
    element, bound = DTYPES[dtype]
    case = Case([8, 1, 17], [9, 33, 17], dtype=element, order=order)
    out = case.run(mask="causal", kernel=kernel)
    assert out.dtype == (element if dtype[0] != "e" else ml_dtypes.bfloat16)
    close(out, case.expected(mask="causal")[0], bound)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("mask", ["none", "causal", "window:5,0", "window:-1,3", "chunked:7"])
@pytest.mark.parametrize("q_lens, kv_lens", [([8], [9]), ([7, 1, 0, 33], [15, 16, 9, 17]), ([5], [0])])
def test_masks_and_lengths(kernel, mask, q_lens, kv_lens):
    case = Case(q_lens, kv_lens, page=7)
    out, lse = case.run(mask=mask, return_lse=True, kernel=kernel)
    expected, expected_lse = case.expected(mask=mask)
    close(out, expected)
    np.testing.assert_allclose(lse, expected_lse, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_features_together(kernel):
    case = Case([9, 3], [33, 16])
    sinks, slopes = case.rng.standard_normal(6), -np.linspace(0.01, 0.2, 6)
    out, lse = case.run(
        mask="causal", soft_cap=5.0, softmax_scale=0.3, sinks=sinks, alibi_slopes=-slopes,
        return_lse=True, kernel=kernel,
    )  # fmt: skip
    expected, expected_lse = case.expected(
        mask="causal", cap=5.0, scale=0.3, sinks=sinks, slopes=-slopes
    )
    close(out, expected)
    np.testing.assert_allclose(lse, expected_lse, rtol=1e-5)


@pytest.mark.parametrize("packed", [False, True])
def test_mask_bits(packed):
    case = Case([9, 3], [33, 16])
    bits = case.rng.random((12, 33)) < 0.4
    given = np.packbits(bits, axis=1, bitorder="little") if packed else bits
    close(case.run(mask_bits=given), case.expected(bits=bits)[0])


def test_scales():
    case = Case([9], [33])
    expected, _ = case.expected(mask="causal", scale=0.7 * 32**-0.5)
    close(case.run(mask="causal", q_scale=2.0, k_scale=0.35, out_scale=2), 2 * expected)
    close(case.run(mask="causal", k_scale=np.array([0.7])), expected)
    per_head = np.repeat([0.5, 3.0], 3)[None, :, None]
    close(case.run(mask="causal", k_scale=[0.7, 0.7], v_scale=[0.5, 3.0]), per_head * expected)


def test_ragged_dense_and_views():
    case = Case([4, 4], [9, 9])
    expected, _ = case.expected(mask="causal")
    k, v = np.concatenate(case.keys), np.concatenate(case.values)
    lens = {"cu_seqlens_q": [0, 4, 8], "cu_seqlens_kv": np.array([0, 9, 18])}
    close(octavo.attention(case.q, k, v, mask="causal", **lens), expected)
    together = np.stack([k, v], axis=1)
    close(octavo.attention(case.q, together[:, 0], together[:, 1], mask="causal", **lens), expected)
    dense = [x.reshape(2, -1, *x.shape[1:]) for x in (case.q, k, v)]
    out, lse = octavo.attention(*dense, mask="causal", return_lse=True)
    assert out.shape == (2, 4, 6, 32) and lse.shape == (2, 4, 6)
    close(out.reshape(expected.shape), expected)
    one = octavo.attention(case.q[:4], k[:9], v[:9], mask="causal")
    close(one, expected[:4])


def test_out_and_lse_are_written_in_place():
    case = Case([8], [9])
    wide = np.full((8, 6, 64), 7, np.float32)
    out, lse = wide[:, :, :32], np.empty((8, 6), np.float32)
    result = case.run(mask="causal", out=out, lse=lse)
    assert result[0] is out and result[1] is lse
    close(out, case.expected(mask="causal")[0])
    assert (wide[:, :, 32:] == 7).all()


@pytest.mark.parametrize("prefix", [0, 4])
def test_bounds_of_a_plan_have_room_for_every_query(prefix):
    draw = random.Random(prefix)
    for _ in range(1000):
        requests = draw.randint(1, 9)
        kv_len = draw.randint(prefix + 1, 40)
        longest = kv_len - prefix if prefix else 40  # more queries than keys, where nothing is shared
        q_lens = [draw.randint(0, longest) for _ in range(requests)]
        bounds = Bounds(requests, sum(q_lens) or 1, max(q_lens) or 1, kv_len)
        planned = bounds.rounded().after(prefix).lengths()
        listed = planned.partition("q_len=")[2].partition(" ")[0]
        planned_lens = [int(length) for length in listed.split(",")]
        assert sum(planned_lens) >= sum(q_lens) and max(planned_lens) >= max(q_lens), (bounds, planned)


def test_plan_runs_within_its_bounds():
    case = Case([8, 1], [9, 33])
    plan = octavo.plan(
        "paged pool=split q=f32 hq=6 hkv=2 d=32 mask=causal b=4 q_len=16 kv_len=64"
    )
    assert plan.kernel in KERNELS
    out = np.empty_like(case.q)
    lens = {n: np.array(x, np.int32) for n, x in (("q_lens", [8, 1]), ("kv_lens", [9, 33]))}
    plan.run(case.q, case.k, case.v, page_table=case.table, out=out, **lens)
    close(out, case.expected(mask="causal")[0])
    with pytest.raises(octavo.InvalidArgumentError, match=r"kv_lens\[1\]=65.*64"):
        lens["kv_lens"][1] = 65
        plan.run(case.q, case.k, case.v, page_table=case.table, out=out, **lens)


def test_threads_share_a_plan():
    case = Case([33], [300], dtype=np.float32)
    expected = case.run(mask="causal")
    results = [None] * 8

    def work(i):
        results[i] = case.run(mask="causal")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(result, expected) for result in results)


def spoil(**changes):
    case = Case([8], [9])
    arguments = {
        "q": case.q, "k": case.k, "v": case.v, "q_lens": [8], "kv_lens": [9],
        "page_table": case.table,
    }  # fmt: skip
    arguments |= {n: change(arguments.get(n)) for n, change in changes.items()}
    q, k, v = (arguments.pop(n) for n in "qkv")
    return octavo.attention(q, k, v, **arguments)


def read_only(_):
    out = np.empty((8, 6, 32), np.float32)
    out.flags.writeable = False
    return out


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"q": lambda q: q.astype(np.float64)}, octavo.InvalidProblemError, "float64"),
        ({"q": lambda q: q.astype(">f4")}, octavo.InvalidArgumentError, "byte order"),
        ({"q": lambda q: q[0]}, octavo.InvalidArgumentError, "q has 2 dimensions"),
        ({"q": lambda q: q[:, :5]}, octavo.InvalidProblemError, "hq=5"),
        ({"q": lambda q: q[:, :, ::2]}, octavo.InvalidArgumentError, "d=16|innermost|wants"),
        ({"k": lambda k: k[..., ::-1]}, octavo.InvalidArgumentError, r"k.stride\[3\]=-1"),
        ({"k": lambda k: k.astype(np.float16)}, octavo.InvalidArgumentError, "v is f32"),
        ({"v": lambda v: v[:1]}, octavo.InvalidArgumentError, r"v.shape\[0\]"),
        ({"page_table": lambda t: t * 0 + 99}, octavo.InvalidArgumentError, r"\]=99.*pool has 3"),
        ({"page_table": lambda t: t[0]}, octavo.InvalidArgumentError, "page_table has 1 dim"),
        ({"kv_lens": lambda _: [17]}, octavo.InvalidArgumentError, "needs 2 pages"),
        ({"kv_lens": lambda _: [9, 9]}, octavo.InvalidProblemError, "kv_len"),
        ({"kv_lens": lambda _: None}, octavo.InvalidArgumentError, "kv_lens is missing"),
        ({"q_lens": lambda _: [9]}, octavo.InvalidArgumentError, "q has 8 rows"),
        ({"q_lens": lambda _: [-1]}, octavo.InvalidProblemError, "-1"),
        ({"cu_seqlens_q": lambda _: [0, 8]}, octavo.InvalidArgumentError, "give one of them"),
        ({"mask": lambda _: "windy"}, octavo.InvalidProblemError, "windy"),
        ({"soft_cap": lambda _: -1.0}, octavo.InvalidProblemError, "cap"),
        ({"softmax_scale": lambda _: float("nan")}, octavo.InvalidProblemError, "scale"),
        ({"order": lambda _: "dhn"}, octavo.InvalidProblemError, "dhn"),
        ({"sinks": lambda _: [1.0]}, octavo.InvalidArgumentError, r"sinks \(size\) is 1"),
        ({"k_scale": lambda _: [1.0] * 3}, octavo.InvalidArgumentError, "k_scale"),
        ({"k_scale": lambda _: float("inf")}, octavo.InvalidArgumentError, "k_scale"),
        ({"out": read_only}, octavo.InvalidArgumentError, "read-only"),
        ({"out": lambda _: [0.0]}, octavo.InvalidArgumentError, "out is a list"),
        ({"out": lambda _: np.empty((7, 6, 32), np.float32)}, octavo.InvalidArgumentError, "7 rows"),
        ({"kernel": lambda _: "cpu_imaginary"}, octavo.UnsupportedError, "cpu_imaginary"),
        ({"split": lambda _: -3}, octavo.InvalidProblemError, "split"),
    ],
)
def test_refusals(changes, error, message):
    with pytest.raises(error, match=message) as caught:
        spoil(**changes)
    assert isinstance(caught.value, octavo.Error)
