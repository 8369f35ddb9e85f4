"""`octavo.attention`: one call from arrays to result."""

from __future__ import annotations

from typing import Any

from . import _octavo
from ._arrays import (
    as_array,
    counted,
    current_stream,
    describe,
    device_of,
    dtype_name,
    empty,
    framework_of,
    is_torch,
    pack_bits,
    repeated,
    require_writable,
    vector,
)
from ._bounds import Bounds
from ._errors import Error, InvalidArgumentError
from ._plan import plan_for, plan_within, wait

SCALES = ("q_scale", "k_scale", "v_scale", "out_scale")


def attention(
    q: Any,
    k: Any,
    v: Any,
    *,
    q_lens: Any = None,
    kv_lens: Any = None,
    cu_seqlens_q: Any = None,
    cu_seqlens_kv: Any = None,
    page_table: Any = None,
    max_q_len: int = 0,
    max_kv_len: int = 0,
    order: str = "nhd",
    mask: str = "none",
    mask_bits: Any = None,
    softmax_scale: float | None = None,
    soft_cap: float | None = None,
    sinks: Any = None,
    alibi_slopes: Any = None,
    q_scale: Any = 1.0,
    k_scale: Any = 1.0,
    v_scale: Any = 1.0,
    out_scale: Any = 1.0,
    out: Any = None,
    out_dtype: Any = None,
    return_lse: bool = False,
    lse: Any = None,
    invariant: bool = False,
    split: int = 0,
    prefix: int = 0,
    kernel: str = "",
) -> Any:
    """Exact attention of `q` over `k` and `v`: dense, ragged or paged.

    Arrays are torch tensors on the CPU or a GPU, numpy arrays (with ml_dtypes for bf16 and fp8), or
    CuPy's or JAX's on a GPU; what numpy.asarray takes is read without a copy. Only the innermost
    dimension must be dense. On a GPU the work is enqueued on the framework's current stream, and
    the host neither waits nor reads lengths, so a CUDA graph may capture the call; what breaks
    max_q_len or max_kv_len there, or names a page that does not exist, is undefined. Only for JAX,
    which shows no stream, the call waits.

    q            [total_q, hq, d], requests one after another; or [batch, q_len, hq, d]
    k, v         paged (with `page_table`): [pages, page, hkv, d], or with order="hnd"
                 [pages, hkv, page, d]; ragged: [total_kv, hkv, d]; dense: [batch, kv_len, hkv, d]
    q_lens, kv_lens      [requests]: tokens of each request
    cu_seqlens_q, cu_seqlens_kv    [requests + 1]: their running sums, instead
    page_table   [requests, columns]: entry (r, c) holds tokens c * page .. of request r; entries
                 past a request's length may hold anything
    max_q_len, max_kv_len    on a GPU: no request is longer. By default q's tokens and what the page
                 table, or k, has room for; the nearer to the truth, the less is launched
    mask         "none", "causal", "window:LEFT,RIGHT", "chunked:C"; query i of a request sits at
                 kv_len - q_len + i
    mask_bits    which keys each query sees, instead: bool [total_q, keys], or uint8 [total_q,
                 bytes] with bit j % 8 of byte j // 8 for key j
    softmax_scale    default 1 / sqrt(d)
    soft_cap     cap * tanh(score / cap)
    sinks        [hq]: a natural-log logit per query head in the denominator
    alibi_slopes [hq]: slope * (j - position) is added to the scores
    q_scale, k_scale, v_scale, out_scale    factors: a number, or an array of one value or of one
                 value per KV head
    out, lse     where to write the results; otherwise they are made
    out_dtype    default q's dtype, bf16 where q is fp8
    return_lse   also return the log of the sum of exponentials, float32 [total_q, hq]
    invariant    a row's bits depend only on its q, the keys it sees and their positions
    split        tokens of a KV split; default: the library's
    prefix       leading tokens that all requests with queries have in the same pages, before their
                 queries, as `octavo.common_prefix` finds them; rounded down to whole pages. Kernels
                 may compute them once for all requests, if that pays
    kernel       forces a kernel by name

    Returns out [total_q, hq, dv] (or [batch, q_len, hq, dv]), or (out, lse).

    Raises InvalidArgumentError, InvalidProblemError or UnsupportedError, before any output is
    touched. There is no backward pass: tensors that require a gradient are refused.
    """
    q, k, v = as_array(q), as_array(k), as_array(v)
    if len({is_torch(x) for x in (q, k, v)}) > 1:
        raise InvalidArgumentError("q, k and v must all be torch tensors, or none of them")
    if is_torch(q):
        require_no_gradient(q=q, k=k, v=v)
    if q.ndim not in (3, 4):
        raise InvalidArgumentError(f"q has {q.ndim} dimensions: must have 3 or 4")
    rows = _flat("q", q) if q.ndim == 4 else q
    paged = page_table is not None
    q_lens = _lengths("q", q_lens, cu_seqlens_q, q, q)
    kv_lens = _lengths("kv", kv_lens, cu_seqlens_kv, k, q, paged)
    if not paged and k.ndim == 4:  # a dense batch is a page per request
        page_table = counted(k.shape[0], q).reshape(-1, 1)
    elif paged:
        page_table = vector(page_table, "i32", q)
    if mask_bits is not None:
        if mask != "none":
            raise InvalidArgumentError(f"mask={mask!r}: mask_bits replaces it")
        mask, mask_bits = "bits", as_array(mask_bits)
        if dtype_name(mask_bits.dtype) == "bool":
            mask_bits = pack_bits(mask_bits)
    if sinks is not None:
        sinks = vector(sinks, "f32", q)
    if alibi_slopes is not None:
        alibi_slopes = vector(alibi_slopes, "f32", q)
    scales, scale_arrays = [], []
    for scale in (q_scale, k_scale, v_scale, out_scale):
        number = isinstance(scale, (int, float))
        scales.append(float(scale) if number else 1.0)
        scale_arrays.append(None if number else vector(scale, "f32", q).reshape(-1))
    out_name = _out_name(q, out, out_dtype)
    if lse is not None:
        require_writable("lse", lse)
    want_lse = return_lse or lse is not None

    hkv_axis = 1 if k.ndim == 3 or order == "hnd" else 2
    words = ["ragged"]
    if page_table is not None:
        words = [f"paged pool=split order={order} page={k.shape[3 - hkv_axis]}"]
    words.append(f"q={dtype_name(q.dtype)} kv={dtype_name(k.dtype)} out={out_name}")
    words.append(f"hq={rows.shape[1]} hkv={k.shape[hkv_axis]} d={q.shape[-1]} dv={v.shape[-1]}")
    words.append(f"mask={mask}")
    if soft_cap is not None:
        words.append(f"cap={soft_cap!r}")
    if softmax_scale is not None:
        words.append(f"scale={softmax_scale!r}")
    for name, array in zip(SCALES, scale_arrays):
        if array is not None:
            words.append(f"{name}={'tensor' if array.shape[0] == 1 else 'head'}")
    if split:
        words.append(f"split={split}")
    if prefix:
        words.append(_prefix_word(prefix, k.shape[3 - hkv_axis] if page_table is not None else 1))
    flags = {"sinks": sinks is not None, "alibi": alibi_slopes is not None, "lse": want_lse}
    words += [flag for flag, on in (flags | {"invariant": invariant}).items() if on]
    call = (
        *(" ".join(words), kernel, max_q_len, max_kv_len),
        *(rows, k, v, q_lens, kv_lens, page_table, mask_bits, sinks, alibi_slopes),
        *(scales, scale_arrays),
    )
    out, lse = _run(call, q, (*q.shape[:-1], v.shape[-1]), out_name, out, want_lse, lse)
    return (out, lse) if want_lse else out


def _run(
    call: tuple[Any, ...],
    q: Any,
    shape: tuple[int, ...],
    out_name: str,
    out: Any,
    want_lse: bool,
    lse: Any,
) -> tuple[Any, Any]:
    """Runs a call of `compute` by way of the operators for torch; makes the results that are None."""
    if is_torch(q):
        from . import torch as operators

        if out is None and lse is None:  # the operator that makes both can be traced
            out, lse = operators.attention(*call)
            return out.reshape(shape), lse.reshape(shape[:-1]) if want_lse else None
    if out is None:
        out = empty(shape, out_name, q)
    if want_lse and lse is None:
        lse = empty(shape[:-1], "f32", q)
    run = operators.attention_out if is_torch(q) else compute
    run(
        *call,
        _flat("out", out) if out.ndim == 4 else out,
        _flat("lse", lse) if lse is not None and lse.ndim == 3 else lse,
    )
    return out, lse


def compute(
    problem: str,
    kernel: str,
    max_q_len: int,
    max_kv_len: int,
    q: Any,
    k: Any,
    v: Any,
    q_lens: Any,
    kv_lens: Any,
    page_table: Any,
    mask_bits: Any,
    sinks: Any,
    alibi_slopes: Any,
    scales: Any,
    scale_arrays: Any,
    out: Any,
    lse: Any,
) -> None:
    """Runs a problem that lacks only its lengths, on what `attention` has normalised."""
    if q_lens.shape[0] == 0 or q.shape[0] == 0:
        return
    factors = {
        name: number if array is None else array
        for name, number, array in zip(SCALES, scales, scale_arrays)
    }
    device = device_of(q)
    if device == "cpu":
        lengths = f"b={q_lens.shape[0]} q_len={_listed(q_lens)} kv_len={_listed(kv_lens)}"
        plan = plan_for(f"{problem} {lengths}", kernel)
        on_device = {}
    else:
        bounds = Bounds(
            requests=q_lens.shape[0],
            tokens=q.shape[0],
            q_len=max_q_len or q.shape[0],
            kv_len=max_kv_len or _room(k, page_table, problem),
        )
        plan = plan_within(problem, bounds.rounded().after(_prefix(problem)), kernel, device)
        # The framework's allocator keeps it for the stream until the work on it is done.
        workspace = empty((plan.workspace_size,), "u8", q) if plan.workspace_size else None
        on_device = {"workspace": workspace, "stream": current_stream(q)}
    plan.run(
        q,
        k,
        v,
        q_lens=q_lens,
        kv_lens=kv_lens,
        page_table=page_table,
        out=out,
        lse=lse,
        mask_bits=mask_bits,
        sinks=sinks,
        alibi_slopes=alibi_slopes,
        **factors,
        **on_device,
    )
    if device != "cpu" and framework_of(q) == "jax":
        wait(device)


def _room(k: Any, page_table: Any, problem: str) -> int:
    """The most tokens that a request's keys can be."""
    if page_table is None:
        return k.shape[0]
    return page_table.shape[1] * k.shape[2 if "order=hnd" in problem.split() else 1]


def common_prefix(page_table: Any, q_lens: Any, kv_lens: Any, page_size: int) -> int:
    """The longest `prefix` that octavo.attention may be told of these requests: tokens in leading pages
    that are the same for all that have queries, as far as no query comes before their last token. The
    page table [requests, columns] and the lengths [requests] are integers in host memory."""
    arrays = {"page_table": page_table, "q_lens": q_lens, "kv_lens": kv_lens}
    for name, array in arrays.items():
        arrays[name] = as_array(array)
        if device_of(arrays[name]) != "cpu":
            raise InvalidArgumentError(f"{name} is on {device_of(array)}: must be in host memory")
        arrays[name] = vector(arrays[name], "i32", arrays[name])
    described = (describe(name, array) for name, array in arrays.items())
    return _octavo.common_prefix(*described, page_size)


def _prefix_word(prefix: int, page_size: int) -> str:
    if prefix < 0:
        raise InvalidArgumentError(f"prefix={prefix}: must be at least 0")
    return f"prefix={prefix - prefix % page_size}"


def _prefix(problem: str) -> int:
    words = (word.partition("=") for word in problem.split())
    return next((int(value) for key, _, value in words if key == "prefix"), 0)


def _listed(lengths: Any) -> str:
    return ",".join(map(str, lengths.tolist()))


def _out_name(q: Any, out: Any, out_dtype: Any) -> str:
    """The result's dtype: what was asked for, or q's, or bf16 where q is fp8."""
    if out is not None:
        require_writable("out", out)
        name = dtype_name(out.dtype)
        if out_dtype is not None and dtype_name(out_dtype) != name:
            raise InvalidArgumentError(f"out_dtype={dtype_name(out_dtype)}: out is {name}")
        return name
    name = dtype_name(q.dtype if out_dtype is None else out_dtype)
    return "bf16" if out_dtype is None and name in ("e4m3", "e5m2") else name


def _flat(name: str, array: Any) -> Any:
    """[batch, tokens, ...] as [batch * tokens, ...]; outputs must allow it without a copy."""
    shape = (array.shape[0] * array.shape[1], *array.shape[2:])
    if is_torch(array):
        return array.reshape(shape) if name == "q" else array.view(shape)
    flat = array.reshape(shape)
    if name != "q" and flat.size and flat.__array_interface__["data"] != array.__array_interface__["data"]:
        raise InvalidArgumentError(f"{name} must be contiguous in its first two dimensions")
    return flat


def _lengths(
    name: str, lens: Any, cu_seqlens: Any, array: Any, like: Any, paged: bool = False
) -> Any:
    """Tokens of each request, from whichever way they were given, as an array like `like`."""
    if lens is not None and cu_seqlens is not None:
        raise InvalidArgumentError(f"{name}_lens and cu_seqlens_{name}: give one of them")
    if lens is not None:
        return vector(lens, "i32", like)
    if cu_seqlens is not None:
        sums = vector(cu_seqlens, "i32", like)
        return vector(sums[1:] - sums[:-1], "i32", like)
    if paged:
        raise InvalidArgumentError(f"{name}_lens is missing: pages hold tokens of any request")
    if array.ndim == 4:
        return repeated(array.shape[1], array.shape[0], like)
    return repeated(array.shape[0], 1, like)


def require_no_gradient(**tensors: Any) -> None:
    import torch

    for name, tensor in tensors.items():
        if torch.is_grad_enabled() and tensor.requires_grad:
            raise Error(f"{name} requires a gradient: there is no backward pass; use torch.no_grad()")
