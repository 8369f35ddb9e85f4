"""Arrays of every framework, as the compiled module reads them.

A description is (address, dtype, shape, strides): the dtype a name of the text form, or i32, u8; the
strides in elements. It borrows: whoever describes an array keeps it alive.
"""

from __future__ import annotations

import sys
from typing import Any

from ._errors import InvalidArgumentError, UnavailableError

Description = tuple[int, str, tuple[int, ...], tuple[int, ...]]

# Names that numpy with ml_dtypes and torch share.
_SHORT = {
    "float32": "f32",
    "float16": "f16",
    "bfloat16": "bf16",
    "float8_e4m3fn": "e4m3",
    "float8_e5m2": "e5m2",
    "int32": "i32",
    "uint8": "u8",
}
LONG_NAMES = {short: name for name, short in _SHORT.items()}


def is_torch(array: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def as_array(array: Any) -> Any:
    """A torch tensor as it is; anything else as a numpy array, without a copy where it allows that."""
    if is_torch(array):
        return array
    import numpy

    return numpy.asarray(array)


def dtype_name(dtype: Any) -> str:
    """The short name of a numpy or torch dtype, or of a string that names one."""
    if isinstance(dtype, str):
        name = dtype
    else:
        name = getattr(dtype, "name", None) or str(dtype)
    name = name.removeprefix("torch.")
    return _SHORT.get(name, name)


def describe(name: str, array: Any) -> Description:
    if is_torch(array):
        if array.device.type != "cpu":
            raise UnavailableError(
                f"{name} is on {array.device}: this build has the device cpu only"
            )
        return (
            array.data_ptr(),
            dtype_name(array.dtype),
            tuple(array.shape),
            tuple(array.stride()),
        )
    size = array.dtype.itemsize
    if not array.dtype.isnative:
        raise InvalidArgumentError(f"{name} is {array.dtype.str}: must have the machine's byte order")
    if any(step % size for step in array.strides):
        raise InvalidArgumentError(
            f"{name} has strides of {array.strides} bytes: must be multiples of its {size}"
        )
    return (
        array.__array_interface__["data"][0],
        dtype_name(array.dtype),
        array.shape,
        tuple(step // size for step in array.strides),
    )


def require_writable(name: str, array: Any) -> None:
    if is_torch(array):
        return
    import numpy

    if not isinstance(array, numpy.ndarray):
        raise InvalidArgumentError(
            f"{name} is a {type(array).__name__}: must be a numpy array or a torch tensor"
        )
    if not array.flags.writeable:
        raise InvalidArgumentError(f"{name} is read-only: the result is written into it")


def empty(shape: tuple[int, ...], dtype: str, like: Any) -> Any:
    """An uninitialised array of `like`'s framework. `dtype`: a short name."""
    name = LONG_NAMES.get(dtype, dtype)
    if is_torch(like):
        import torch

        return torch.empty(shape, dtype=getattr(torch, name), device=like.device)
    import numpy

    try:
        return numpy.empty(shape, dtype=name)
    except TypeError:
        import ml_dtypes

        return numpy.empty(shape, dtype=getattr(ml_dtypes, name))


def vector(values: Any, dtype: str, like: Any) -> Any:
    """A dense array of `like`'s framework; copies only what has another dtype or strides."""
    if is_torch(like):
        import torch

        return torch.as_tensor(values, dtype=getattr(torch, LONG_NAMES[dtype])).contiguous()
    import numpy

    return numpy.ascontiguousarray(values, dtype=LONG_NAMES[dtype])


def pack_bits(mask: Any) -> Any:
    """Booleans [rows, keys] as bits [rows, ceil(keys / 8)], least significant first."""
    if is_torch(mask):
        import torch

        return torch.from_numpy(pack_bits(mask.numpy()))
    import numpy

    return numpy.packbits(mask, axis=1, bitorder="little")
