"""octavo.merge_states, and attention over a prefix that requests share."""

import ml_dtypes
import numpy as np
import oracle
import pytest
import torch

import octavo

NAN, INF = float("nan"), float("inf")


def states(parts=3, rows=5, heads=4, d=24, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    outs = rng.standard_normal((parts, rows, heads, d)).astype(dtype)
    lses = rng.standard_normal((parts, rows, heads)).astype(np.float32) * 3
    lses[1, 2], outs[1, 2] = -INF, NAN
    lses[:, 4], outs[:, 4] = -INF, NAN
    return outs, lses


def merged(outs, lses):
    outs = np.where(np.isneginf(lses)[..., None], 0, outs.astype(np.float64))
    weights = np.exp(lses.astype(np.float64))
    total = weights.sum(0)
    with np.errstate(divide="ignore"):
        return (outs * weights[..., None]).sum(0) / np.where(total, total, 1)[..., None], np.log(total)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_arrays_of_numpy(dtype):
    outs, lses = states(dtype=dtype)
    out, lse = octavo.merge_states(outs, lses)
    expected, expected_lse = merged(outs, lses)
    assert out.dtype == dtype and lse.dtype == np.float32
    bound = 4 * float(ml_dtypes.finfo(dtype).eps)
    np.testing.assert_allclose(out.astype(np.float64), expected, rtol=bound, atol=bound)
    np.testing.assert_allclose(lse, expected_lse, atol=4e-6)


def test_tensors_strides_and_given_results():
    outs, lses = (torch.from_numpy(x) for x in states())
    rows_first = outs.transpose(0, 1).contiguous().transpose(0, 1)
    out, lse = octavo.merge_states(outs, lses)
    into = torch.full((5, 4, 2, 24), 7.0)
    given, given_lse = octavo.merge_states(rows_first, lses, out=into[:, :, 1], lse=torch.empty(5, 4))
    assert given.data_ptr() == into[:, :, 1].data_ptr()
    assert torch.equal(into[:, :, 1], out) and torch.equal(given_lse, lse)
    assert (into[:, :, 0] == 7).all()
    assert octavo.merge_states(outs, lses, out_dtype=torch.bfloat16)[0].dtype == torch.bfloat16


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda o, s: octavo.merge_states(o[0], s), "parts has 3 dimensions"),
        (lambda o, s: octavo.merge_states(o, s[:2]), "parts_lse.shape\\[0\\] is 2"),
        (lambda o, s: octavo.merge_states(o[:0], s[:0]), "parts.shape\\[0\\]=0"),
        (lambda o, s: octavo.merge_states(o, s, out=o[0]), "out and parts may share memory"),
        (lambda o, s: octavo.merge_states(o, s, out=o[0].copy(), out_dtype="f16"), "out_dtype=f16"),
        (lambda o, s: octavo.merge_states(o, s, lse=s[0].astype(np.float16)), "lse is f16"),
    ],
)
def test_what_is_refused(change, message):
    with pytest.raises(octavo.InvalidArgumentError, match=message):
        change(*states())


class Shared:
    """Requests that begin with the same tokens, in the same pages."""

    PAGE = 8

    def __init__(self, prefix, own, q_lens, hq=6, hkv=2, d=16, seed=3):
        rng = np.random.default_rng(seed)
        draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
        self.q_lens, self.kv_lens = q_lens, [prefix + n for n in own]
        self.q = draw(sum(q_lens), hq, d)
        tokens = [(draw(n, hkv, d), draw(n, hkv, d)) for n in (prefix, *own)]
        self.keys, self.values = (
            [np.concatenate([tokens[0][side], t[side]]) for t in tokens[1:]] for side in (0, 1)
        )
        self.k, self.table = oracle.paged(self.keys, self.PAGE)
        self.v, _ = oracle.paged(self.values, self.PAGE)
        pages = prefix // self.PAGE
        self.table[:, :pages] = self.table[0, :pages]

    def run(self, **options):
        return octavo.attention(
            self.q, self.k, self.v, q_lens=self.q_lens, kv_lens=self.kv_lens,
            page_table=self.table, return_lse=True, **options,
        )  # fmt: skip

    def check(self, result, **features):
        expected = oracle.attention(
            self.q, self.keys, self.values, self.q_lens, self.kv_lens, oracle.Features(**features)
        )
        for actual, exact in zip(result, expected):
            np.testing.assert_allclose(actual, exact, atol=1e-5)


@pytest.mark.parametrize("prefix", [16, 21])
@pytest.mark.parametrize("features", [
    {"mask": "causal"}, {"mask": "none", "cap": 5.0}, {"mask": "window:200,0"},
    {"mask": "causal", "sinks": np.float32([0, 1, 2, 3, -1, 9])},
])  # fmt: skip
def test_a_prefix_is_computed_once(prefix, features):
    batch = Shared(prefix, own=[1, 9, 30], q_lens=[1, 2, 30])
    options = {"soft_cap" if name == "cap" else name: value for name, value in features.items()}
    once = batch.run(prefix=prefix, kernel="cpu_cascade", **options)
    batch.check(once, **features)
    batch.check(batch.run(prefix=prefix, **options), **features)
    again = batch.run(prefix=prefix, kernel="cpu_cascade", **options)
    for one, other in zip(once, again):
        assert np.array_equal(one, other)


def test_the_common_prefix():
    batch = Shared(24, own=[1, 9, 30], q_lens=[1, 2, 30])
    lengths = (batch.q_lens, batch.kv_lens, Shared.PAGE)
    assert octavo.common_prefix(batch.table, *lengths) == 24
    assert octavo.common_prefix(torch.from_numpy(batch.table), *lengths) == 24
    assert octavo.common_prefix(batch.table, [1, 2, 40], batch.kv_lens, Shared.PAGE) == 8
    with pytest.raises(octavo.InvalidArgumentError, match="kv_lens has 2 values"):
        octavo.common_prefix(batch.table, [1, 2, 3], [9, 9], Shared.PAGE)


def test_prefixes_that_are_not_there():
    batch = Shared(16, own=[1, 9], q_lens=[1, 2])
    with pytest.raises(octavo.InvalidArgumentError, match="must be the page that all share"):
        batch.table[1, 1] = batch.table[1, 0]
        batch.run(prefix=16)
    with pytest.raises(octavo.InvalidArgumentError, match="prefix=-1"):
        batch.run(prefix=-1)
    with pytest.raises(octavo.InvalidProblemError, match="prefix=24: must be at most"):
        batch.run(prefix=24)
    with pytest.raises(octavo.UnsupportedError, match="cannot do alibi"):
        batch.run(prefix=16, kernel="cpu_cascade", alibi_slopes=np.ones(6, np.float32))


def test_torch_compile_takes_both_whole():
    batch = Shared(16, own=[1, 9], q_lens=[1, 2])
    q, k, v, table = (torch.from_numpy(x) for x in (batch.q, batch.k, batch.v, batch.table))
    lens = torch.tensor(batch.q_lens), torch.tensor(batch.kv_lens)

    def step(q, k, v, table):
        out, lse = octavo.attention(
            q, k, v, q_lens=lens[0], kv_lens=lens[1], page_table=table, mask="causal", prefix=16,
            return_lse=True,
        )  # fmt: skip
        return octavo.merge_states(torch.stack((out, out)), torch.stack((lse, lse)))

    for compiled, eager in zip(
        torch.compile(step, fullgraph=True, backend="eager")(q, k, v, table), step(q, k, v, table)
    ):
        torch.testing.assert_close(compiled, eager)
