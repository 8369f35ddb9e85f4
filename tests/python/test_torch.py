"""torch tensors, the torch operators, and agreement with PyTorch's own attention."""

import os
import subprocess
import sys

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

import octavo
import octavo.torch  # noqa: F401, registers the operators

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def tensors(dtype=torch.float32, q_len=9, kv_len=33, hq=6, hkv=2, d=64, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(shape, generator=generator).to(dtype)  # noqa: E731
    return draw(batch, q_len, hq, d), draw(batch, kv_len, hkv, d), draw(batch, kv_len, hkv, d)


def sdpa(q, k, v, mask=None, scale=None):
    """In double precision, on [batch, tokens, heads, d]."""
    swapped = (x.double().transpose(1, 2) for x in (q, k, v))
    out = scaled_dot_product_attention(*swapped, attn_mask=mask, scale=scale, enable_gqa=True)
    return out.transpose(1, 2)


def allowed(mask, q_len, kv_len):
    pos = torch.arange(q_len)[:, None] + kv_len - q_len
    j = torch.arange(kv_len)
    return {
        "none": torch.ones(q_len, kv_len, dtype=torch.bool),
        "causal": j <= pos,
        "window:5,0": (j <= pos) & (j >= pos - 5),
        "chunked:7": (j <= pos) & (j >= pos // 7 * 7),
    }[mask]


@pytest.mark.parametrize("kernel", octavo.kernels())
@pytest.mark.parametrize("mask", ["none", "causal", "window:5,0", "chunked:7"])
@pytest.mark.parametrize("q_len, kv_len", [(1, 1), (1, 33), (8, 9), (15, 15), (17, 33), (33, 300)])
@pytest.mark.parametrize("hq, hkv, d", [(6, 2, 64), (5, 1, 32), (7, 7, 128)])
def test_agrees_with_sdpa(kernel, mask, q_len, kv_len, hq, hkv, d):
    q, k, v = tensors(q_len=q_len, kv_len=kv_len, hq=hq, hkv=hkv, d=d)
    out = octavo.attention(q, k, v, mask=mask, softmax_scale=0.2, kernel=kernel)
    expected = sdpa(q, k, v, allowed(mask, q_len, kv_len), 0.2)
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes_agree_with_sdpa(dtype):
    q, k, v = tensors(dtype)
    out = octavo.attention(q, k, v, mask="causal")
    assert out.dtype == dtype
    bound = max(2 * torch.finfo(dtype).eps, 5e-6)  # of the result; fp32 sums have more of their own
    torch.testing.assert_close(out.double(), sdpa(q, k, v, allowed("causal", 9, 33)), rtol=bound,
                               atol=bound)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_fp8_cache(dtype):
    q, k, v = tensors()
    k, v = k.to(dtype), v.to(dtype)
    out = octavo.attention(q, k, v, mask="causal", k_scale=0.5, v_scale=torch.tensor([2.0, 4.0]))
    factors = torch.tensor([2.0, 4.0]).double()[:, None]
    expected = sdpa(q, 0.5 * k.float(), v.double() * factors, allowed("causal", 9, 33))
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=2e-5)


def paged_call(order="nhd"):
    """Arguments of the operator: a paged problem with everything on."""
    q, k, v = tensors(batch=1, q_len=8, kv_len=64)
    k, v = (x.reshape(4, 16, 2, 64) for x in (k, v))
    if order == "hnd":
        k, v = (x.transpose(1, 2).contiguous() for x in (k, v))
    lens = (torch.tensor([5, 3], dtype=torch.int32), torch.tensor([9, 17], dtype=torch.int32))
    table = torch.tensor([[3, 0], [1, 2]], dtype=torch.int32)
    problem = (
        f"paged pool=split order={order} page=16 q=f32 kv=f32 out=f32 hq=6 hkv=2 d=64 dv=64 "
        "mask=causal k_scale=head sinks lse"
    )
    sinks = torch.linspace(-1, 1, 6)
    scales = [None, torch.tensor([0.5, 2.0]), None, None]
    call = (problem, "", 0, 0, q[0], k, v, *lens, table, None, sinks, None, [1.0, 1.0, 0.5, 1.0], scales)
    keywords = {
        "q_lens": lens[0], "kv_lens": lens[1], "page_table": table, "order": order,
        "mask": "causal", "sinks": sinks, "k_scale": scales[1], "v_scale": 0.5,
    }  # fmt: skip
    return call, (q[0], k, v), keywords


@pytest.mark.parametrize("order", ["nhd", "hnd"])
def test_opcheck(order):
    call, _, _ = paged_call(order)
    torch.library.opcheck(torch.ops.octavo.attention.default, call)
    results = torch.empty(8, 6, 64), torch.empty(8, 6)
    torch.library.opcheck(torch.ops.octavo.attention_out.default, (*call, *results))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_whole(dynamic):
    _, qkv, keywords = paged_call()

    def layer(q, k, v, q_lens, kv_lens, page_table, sinks, k_scale):
        given = {"q_lens": q_lens, "kv_lens": kv_lens, "page_table": page_table, "sinks": sinks}
        out, lse = octavo.attention(
            q * 2, k, v, **(keywords | given | {"k_scale": k_scale}), return_lse=True
        )
        return out + 1, lse

    inputs = (*qkv, *(keywords[n] for n in ("q_lens", "kv_lens", "page_table", "sinks", "k_scale")))
    compiled = torch.compile(layer, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for actual, expected in zip(compiled(*inputs), layer(*inputs)):
        assert torch.equal(actual, expected)


def test_views_and_results_in_place():
    _, (q, k, v), keywords = paged_call()
    expected, expected_lse = octavo.attention(q, k, v, **keywords, return_lse=True)
    joint = torch.stack([k, v], dim=1)
    wide = torch.full((8, 6, 128), 7.0)
    out, lse = wide[..., :64], torch.empty(8, 6)
    result = octavo.attention(q, joint[:, 0], joint[:, 1], **keywords, out=out, lse=lse)
    assert result[0] is out and result[1] is lse
    assert torch.equal(out, expected) and torch.equal(lse, expected_lse)
    assert (wide[..., 64:] == 7).all()


def test_requests_without_queries():
    _, (q, k, v), keywords = paged_call()
    keywords["q_lens"] = torch.zeros(2, dtype=torch.int32)
    out, lse = octavo.attention(q[:0], k, v, **keywords, return_lse=True)
    assert out.shape == (0, 6, 64) and lse.shape == (0, 6)


def test_gradients_are_refused():
    q, k, v = tensors()
    with pytest.raises(octavo.Error, match="q requires a gradient"):
        octavo.attention(q.requires_grad_(), k, v)
    with torch.no_grad():
        octavo.attention(q, k, v)


def test_mixed_frameworks_are_refused():
    q, k, v = tensors()
    with pytest.raises(octavo.InvalidArgumentError, match="all be torch tensors"):
        octavo.attention(q, k.numpy(), v)


def test_threads_of_torchs_openmp():
    """In a process of its own: it is for good."""
    script = """
import torch, octavo
from octavo import _octavo
from octavo._threads import use_openmp_of_torch
q, k, v = (torch.randn(2, 300, 6, 64) for _ in range(3))
expected = octavo.attention(q, k, v, mask="causal")
torch.set_num_threads(3)
use_openmp_of_torch()
print(_octavo.threads(), torch.equal(octavo.attention(q, k, v, mask="causal"), expected))
"""
    environment = {name: x for name, x in os.environ.items() if name != "OCTAVO_NUM_THREADS"}
    for own, threads in ((None, "3"), ("2", "2")):
        if own is not None:
            environment["OCTAVO_NUM_THREADS"] = own
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True
        )
        assert done.stdout.split() == [threads, "True"], done.stderr
