"""octavo.KVCache: pages that requests share, and what is stored in them."""

import re
from pathlib import Path

import ml_dtypes
import numpy as np
import oracle
import pytest
import torch

import octavo

HKV, HQ, D = 2, 4, 16


def rows(count, heads=HKV, d=D, seed=0):
    return np.random.default_rng(seed).standard_normal((count, heads, d)).astype(np.float32)


def cache_of(**changes):
    return octavo.KVCache(**{"pages": 16, "page_size": 4, "hkv": HKV, "d": D} | changes)


def written(cache, request, layer=0):
    """K of a request, gathered from its pages."""
    (pages,), (length,) = (np.asarray(x) for x in cache.tables([request]))
    k = np.asarray(cache.k(layer))
    return k[pages].reshape(-1, HKV, k.shape[-1])[:length]


def test_the_example_of_the_documentation(capsys):
    text = (Path(__file__).parents[2] / "docs/kv-cache.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = {}
    exec(compile(example, "docs/kv-cache.md", "exec"), names)
    assert "in_use=0" in capsys.readouterr().out
    assert np.isfinite(names["out"]).all()


@pytest.mark.parametrize("pool", ["split", "joint"])
@pytest.mark.parametrize("order", ["nhd", "hnd"])
@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_attention_over_the_cache(framework, order, pool):
    like = torch.empty(0) if framework == "torch" else None
    cache = cache_of(order=order, pool=pool, like=like)
    arrays = torch.from_numpy if framework == "torch" else np.asarray
    q, k, v = rows(17, HQ, seed=1), rows(17, seed=2), rows(17, seed=3)
    request, _ = cache.admit(range(17), tokens=6)
    out = []
    for begin, end in [(0, 6), (6, 16), (16, 17)]:
        if begin:
            cache.reserve(request, list(range(begin, end)))
        cache.append([request], arrays(k[begin:end]), arrays(v[begin:end]))
        page_table, kv_lens = cache.tables([request])
        assert isinstance(page_table, torch.Tensor) == (framework == "torch")
        out.append(
            octavo.attention(
                arrays(q[begin:end]),
                cache.k(),
                cache.v(),
                page_table=page_table,
                q_lens=[end - begin],
                kv_lens=kv_lens,
                mask="causal",
                order=order,
            )
        )
    expected, _ = oracle.attention(q, [k], [v], [17], [17], oracle.Features(mask="causal"))
    np.testing.assert_allclose(np.concatenate(out), expected, atol=1e-5)


def test_prefixes_and_salts():
    cache = cache_of(layers=2)
    prompt = np.arange(10)
    a = cache.admit(prompt, salt="x").request
    cache.append([a], rows(10), rows(10), layer=0)
    assert cache.admit(prompt, salt="x", tokens=0).cached == 0  # a layer is missing
    cache.append([a], rows(10), rows(10), layer=1)
    b = cache.admit(torch.arange(10), salt=b"x", tokens=0)
    assert b.cached == 8
    assert cache.admit(prompt, salt="y", tokens=0).cached == 0
    assert cache.length(b.request) == cache.written(b.request) == 8
    cache.free(a)
    statistics = cache.statistics()
    assert statistics.cached == 0 and statistics.in_use == 2
    assert statistics.prompt_tokens == 40 and statistics.hit_rate == 0.2


def test_a_fork_goes_its_own_way():
    cache = cache_of()
    k = rows(6)
    a = cache.admit(range(6)).request
    cache.append([a], k, k)
    b = cache.fork(a)
    assert cache.statistics().in_use == 2
    more = rows(2, seed=5)
    for request, row in ((a, more[:1]), (b, more[1:])):
        cache.reserve(request, 1)
        cache.append([request], row, row)
    assert cache.statistics().copies == 1
    np.testing.assert_array_equal(written(cache, a), np.concatenate([k, more[:1]]))
    np.testing.assert_array_equal(written(cache, b), np.concatenate([k, more[1:]]))
    cache.truncate(b, 5)
    np.testing.assert_array_equal(written(cache, b), k[:5])


@pytest.mark.parametrize("scale", [0.5, np.float32([0.5]), np.float32([0.25, 2.0])])
@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "bfloat16", "float16"])
def test_what_is_stored(dtype, scale):
    cache = cache_of(dtype=dtype)
    request = cache.admit(range(6)).request
    x = 100 * rows(6)
    cache.append([request], x, x, k_scale=scale, v_scale=scale)
    kind = getattr(ml_dtypes, dtype, None) or np.dtype(dtype)
    # Saturates, unlike numpy. Scales are powers of two, so that the division is exact.
    largest = float(ml_dtypes.finfo(kind).max)
    factor = np.asarray(scale).reshape(-1, 1)
    expected = np.clip(x / factor, -largest, largest).astype(kind)
    got = written(cache, request)
    np.testing.assert_array_equal(got.astype(np.float32), expected.astype(np.float32))


@pytest.mark.parametrize("style", ["halves", "interleaved"])
def test_rope(style):
    cache = cache_of()
    request = cache.admit(range(9)).request
    k, rotary, base = rows(9), 12, 500.0
    rope = octavo.Rope(octavo.rope_table(32, rotary, base, like=torch.empty(0)), style)
    positions = [3, 1, 4, 1, 5, 9, 2, 6, 31]
    cache.append([request], k, k, rope=rope, positions=positions)
    # As a product of complex numbers.
    first, second = (slice(0, 6), slice(6, 12)) if style == "halves" else (slice(0, 12, 2), slice(1, 12, 2))
    angles = np.outer(positions, base ** (-np.arange(0, rotary, 2) / rotary))[:, None]
    z = (k[..., first] + 1j * k[..., second]) * np.exp(1j * angles)
    expected = k.copy()
    expected[..., first], expected[..., second] = z.real, z.imag
    np.testing.assert_allclose(written(cache, request), expected, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(cache.v())[0, 0], k[0])  # V is not turned
    octavo.rotate(k, rope, positions)
    np.testing.assert_array_equal(k, written(cache, request))


@pytest.mark.parametrize("framework", ["numpy", "torch"])
@pytest.mark.parametrize("order", ["nhd", "hnd"])
def test_slots(order, framework):
    arrays = torch.from_numpy if framework == "torch" else np.asarray
    shape = (3, 4, HKV, D) if order == "nhd" else (3, HKV, 4, D)
    k, v = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    new_k, new_v = rows(5, seed=1), rows(5, seed=2)
    slots = np.array([11, 0, -1, 6, 5])
    octavo.store(
        arrays(new_k), arrays(new_v), arrays(k), arrays(v), arrays(slots), order=order,
        k_scale=2.0, v_scale=arrays(np.array([1.0, 4.0], np.float32)),
    )  # fmt: skip
    by_slot = (x if order == "nhd" else x.transpose(0, 2, 1, 3) for x in (k, v))
    stored_k, stored_v = (x.reshape(12, HKV, D) for x in by_slot)
    used = slots >= 0
    np.testing.assert_array_equal(stored_k[slots[used]], new_k[used] / 2)
    np.testing.assert_array_equal(stored_v[slots[used]], new_v[used] / np.array([[1], [4]]))
    assert np.count_nonzero(stored_k.any((1, 2))) == 4

    before = k.copy()
    for wrong, message in (([12, 0, 1, 2, 3], "12: the pool has 12"), ([5, 0, 1, 2, 5], "5 twice")):
        with pytest.raises(octavo.InvalidArgumentError, match=message):
            octavo.store(new_k, new_v, k, v, np.array(wrong), order=order)
    with pytest.raises(octavo.InvalidArgumentError, match="order='hdn': must be"):
        octavo.store(new_k, new_v, k, v, slots, order="hdn")
    np.testing.assert_array_equal(k, before)


def test_windows_give_pages_back():
    cache = cache_of(pages=4, mask="window:5,0")
    request = cache.admit(range(4)).request
    cache.append([request], rows(4), rows(4))
    for token in range(40):
        cache.reserve(request, [token])
        cache.append([request], rows(1), rows(1))
    assert cache.length(request) == 44
    with pytest.raises(octavo.InvalidArgumentError, match="tokens=20: the next query would see"):
        cache.truncate(request, 20)


def test_full_caches_refuse_whole():
    cache = cache_of()
    with pytest.raises(octavo.CacheFullError, match="missing=3") as refused:
        cache.admit(range(74))
    assert refused.value.missing == 3
    request = cache.admit(range(60)).request
    with pytest.raises(octavo.CacheFullError, match="missing=1"):
        cache.reserve(request, 5)
    assert cache.length(request) == 60
    cache.reserve(request, 4)
    assert cache.statistics().refusals == 2


def test_the_callers_memory():
    k = [torch.full((16, 4, HKV, D), -1.0) for _ in range(2)]
    v = [torch.full((16, 4, HKV, D), -1.0) for _ in range(2)]
    cache = cache_of(layers=2, k=k, v=v)
    request = cache.admit(range(1)).request
    cache.append([request], torch.ones(1, HKV, D), torch.zeros(1, HKV, D), layer=1)
    assert cache.k(1) is k[1]
    assert (k[0] == -1).all() and (k[1] == 1).sum() == HKV * D and (v[1] == 0).sum() == HKV * D


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pages": 0}, "pages=0: must be"),
        ({"page_size": -1}, "page_size=-1: must be"),
        ({"hkv": 0}, "hkv=0: must be"),
        ({"pool": "both"}, "pool='both': must be"),
        ({"pool": "joint", "dv": 8}, "dv=8: must equal d=16"),
        ({"mask": "window"}, "mask"),
        ({"order": "dhn"}, "order"),
        ({"k": [rows(1)]}, "give both or none"),
        ({"k": [rows(1)], "v": [rows(1)]}, "k has 3 dimensions: must have 4"),
        ({"k": [], "v": []}, "layers=1"),
    ],
)
def test_bad_caches(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        cache_of(**changes)


def test_bad_calls_change_nothing():
    cache = cache_of()
    gone = cache.admit(range(3)).request
    cache.free(gone)
    request = cache.admit(range(5)).request
    rope = octavo.Rope(octavo.rope_table(8, 8), "thirds")
    calls = {
        "request=1: was freed": lambda: cache.free(gone),
        "request=9: was never admitted": lambda: cache.fork(9),
        "has 5 tokens, of which 0 are written": lambda: cache.fork(request),
        "tokens=6: must be from 0 to the 5": lambda: cache.truncate(request, 6),
        "tokens=-1: must be at least 0": lambda: cache.reserve(request, -1),
        "tokens is float64: must be integers": lambda: cache.reserve(request, [0.5]),
        "prompt has 4294967296: must fit int32": lambda: cache.admit([2**32]),
        "new_k.shape[0] (rows) is 4: the sum": lambda: cache.append([request], rows(4), rows(4)),
        "k is i32: must be f32": lambda: cache.append([request], np.int32(rows(5)), rows(5)),
        "layer=1: must be from 0 to 0": lambda: cache.append([request], rows(5), rows(5), layer=1),
        "requests name 2 twice": lambda: cache.append([request] * 2, rows(5), rows(5)),
        "k_scale=0: must be finite": lambda: cache.append([request], rows(5), rows(5), k_scale=0.0),
        "positions are given": lambda: cache.append([request], rows(5), rows(5), positions=[0] * 5),
        "rope.style is thirds": lambda: cache.append([request], rows(5), rows(5), rope=rope),
    }
    for message, call in calls.items():
        with pytest.raises(octavo.InvalidArgumentError, match=re.escape(message)):
            call()
    assert cache.written(request) == 0 and cache.length(request) == 5
    cache.append([request], rows(5), rows(5))
    assert cache.written(request) == 5
