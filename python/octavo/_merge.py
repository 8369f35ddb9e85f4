"""`octavo.merge_states`: results over parts of the keys, as over all of them."""

from __future__ import annotations

from typing import Any

from . import _octavo
from ._arrays import (
    as_array,
    current_stream,
    describe,
    device_of,
    dtype_name,
    empty,
    framework_of,
    is_gpu_array,
    is_torch,
    require_writable,
    vector,
)
from ._attention import require_no_gradient
from ._errors import InvalidArgumentError
from ._plan import wait


def merge_states(
    parts: Any, parts_lse: Any, *, out: Any = None, out_dtype: Any = None, lse: Any = None
) -> tuple[Any, Any]:
    """The results of attention over parts of the keys, as over all of them:

        lse = log(sum_i exp(lse_i))       out = sum_i exp(lse_i - lse) * out_i

    in fp32, in the order of the parts. A part whose LSE is -inf, because its row saw no key there, adds
    nothing, whatever it holds; where all are, out is 0 and lse -inf. Arrays are those of
    octavo.attention, with any strides of the outer dimensions; on a GPU the work is enqueued on the
    framework's current stream.

    parts        [parts, rows, heads, dv]
    parts_lse    float32 [parts, rows, heads]: natural logs, as octavo.attention returns them
    out, lse     where to write the results; otherwise they are made. They share no memory with inputs
    out_dtype    default parts' dtype

    Returns out [rows, heads, dv] and lse, float32 [rows, heads]. Raises InvalidArgumentError before
    an output is touched.
    """
    parts = as_array(parts)
    parts_lse = vector(parts_lse, "f32", parts) if not _is_f32(parts_lse) else parts_lse
    if is_torch(parts):
        require_no_gradient(parts=parts)
    if parts.ndim != 4:
        raise InvalidArgumentError(f"parts has {parts.ndim} dimensions: must have 4")
    name = dtype_name(out_dtype or (parts if out is None else out).dtype)
    if out is not None and name != dtype_name(out.dtype):
        raise InvalidArgumentError(f"out_dtype={name}: out is {dtype_name(out.dtype)}")
    if is_torch(parts):
        from . import torch as operators

        if out is None and lse is None:  # the operator that makes both can be traced
            return operators.merge_states(parts, parts_lse, name)
    if out is None:
        out = empty(tuple(parts.shape[1:]), name, parts)
    if lse is None:
        lse = empty(tuple(parts.shape[1:3]), "f32", parts)
    run = operators.merge_states_out if is_torch(parts) else compute
    run(parts, parts_lse, out, lse)
    return out, lse


def compute(parts: Any, parts_lse: Any, out: Any, lse: Any) -> None:
    """Merges on whichever device the arrays are."""
    device = device_of(parts)
    arrays = {"parts": parts, "parts_lse": parts_lse, "out": out, "lse": lse}
    for name, array in arrays.items():
        if device_of(array) != device:
            raise InvalidArgumentError(f"{name} is on {device_of(array)}: parts is on {device}")
    for name in ("out", "lse"):
        if not is_gpu_array(arrays[name]):
            require_writable(name, arrays[name])
    stream = None if device == "cpu" else current_stream(parts)
    _octavo.merge_states(*(describe(n, array) for n, array in arrays.items()), device, stream)
    if device != "cpu" and framework_of(parts) == "jax":
        wait(device)


def _is_f32(array: Any) -> bool:
    return hasattr(array, "dtype") and dtype_name(array.dtype) == "f32"
