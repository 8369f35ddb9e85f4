"""Arrays of every framework, as the compiled module reads them.

A description is (address, dtype, shape, strides): the dtype a name of the text form, or i32, u8; the
strides in elements. It borrows: whoever describes an array keeps it alive.

On GPUs, arrays are torch tensors or anything that speaks DLPack, as CuPy's and JAX's do.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

from . import _octavo
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
_GPU_KINDS = (2, 3, 13)  # DLPack's: CUDA memory, pinned on the host, managed


def is_torch(array: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def is_gpu_array(array: Any) -> bool:
    """Whether it is on a GPU and not torch's."""
    if is_torch(array) or not hasattr(array, "__dlpack_device__"):
        return False
    kind, _ = array.__dlpack_device__()
    return int(kind) in _GPU_KINDS


def device_of(array: Any) -> str:
    """The id of its device: cpu or cuda:N."""
    if is_torch(array):
        if array.is_cpu:  # quicker than the device's own name
            return "cpu"
        kind, index = array.device.type, array.device.index
    else:
        index = array.__dlpack_device__()[1] if is_gpu_array(array) else None
        kind = "cpu" if index is None else "cuda"
    if kind not in ("cpu", "cuda"):
        raise UnavailableError(f"device {kind}: Octavo has kernels for cpu and cuda")
    return "cpu" if kind == "cpu" else f"cuda:{index or 0}"


def framework_of(array: Any) -> str:
    """torch, numpy, cupy, jax, ...: who makes arrays like this one."""
    name = type(array).__module__.partition(".")[0]
    return "torch" if is_torch(array) else "jax" if name == "jaxlib" else name


def current_stream(like: Any) -> int:
    """The address of the stream on which `like`'s framework works now; 0 is the default one."""
    framework = framework_of(like)
    if framework == "torch":
        import torch

        return torch.cuda.current_stream(like.device).cuda_stream
    if framework == "cupy":
        import cupy

        return cupy.cuda.get_current_stream().ptr
    return 0


def as_array(array: Any) -> Any:
    """A torch tensor, or an array on a GPU, as it is; anything else as a numpy array, without a copy
    where it allows that."""
    if is_torch(array) or is_gpu_array(array):
        return array
    import numpy

    return numpy.asarray(array)


@functools.cache  # at every array of every call
def dtype_name(dtype: Any) -> str:
    """The short name of a numpy or torch dtype, or of a string that names one."""
    if isinstance(dtype, str):
        name = dtype
    else:
        name = getattr(dtype, "name", None) or str(dtype)
    name = name.removeprefix("torch.")
    return _SHORT.get(name, name)


def describe(name: str, array: Any) -> Description:
    if is_gpu_array(array):
        return _octavo.describe(array)
    if is_torch(array):
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
    if is_torch(array) or framework_of(array) == "cupy":
        return
    import numpy

    if not isinstance(array, numpy.ndarray):
        raise InvalidArgumentError(
            f"{name} is a {type(array).__name__}: must be a numpy or CuPy array, or a torch tensor"
        )
    if not array.flags.writeable:
        raise InvalidArgumentError(f"{name} is read-only: the result is written into it")


def empty(shape: tuple[int, ...], dtype: str, like: Any) -> Any:
    """An uninitialised array of `like`'s framework. `dtype`: a short name."""
    name = LONG_NAMES.get(dtype, dtype)
    if is_torch(like):
        import torch

        return torch.empty(shape, dtype=getattr(torch, name), device=like.device)
    if framework_of(like) == "jax":
        import jax

        return jax.block_until_ready(jax.numpy.empty(shape, dtype=name, device=like.device))
    if is_gpu_array(like):
        return _array_module(like).empty(shape, dtype=name)
    import numpy

    try:
        return numpy.empty(shape, dtype=name)
    except TypeError:
        import ml_dtypes

        return numpy.empty(shape, dtype=getattr(ml_dtypes, name))


def vector(values: Any, dtype: str, like: Any) -> Any:
    """A dense array of `like`'s framework and device; copies only what differs from that."""
    if is_torch(like):
        import torch

        wanted = {"dtype": getattr(torch, LONG_NAMES[dtype]), "device": like.device}
        return torch.as_tensor(values, **wanted).contiguous()
    if is_gpu_array(like):
        order = {} if framework_of(like) == "jax" else {"order": "C"}  # jax has no other, nor the word
        return _array_module(like).asarray(values, dtype=LONG_NAMES[dtype], **order)
    import numpy

    return numpy.ascontiguousarray(values, dtype=LONG_NAMES[dtype])


def repeated(value: int, count: int, like: Any) -> Any:
    """int32 [count], on `like`'s device without a copy from the host."""
    if is_torch(like):
        import torch

        return torch.full((count,), value, dtype=torch.int32, device=like.device)
    return _array_module(like).full((count,), value, dtype="int32")


def counted(count: int, like: Any) -> Any:
    """int32 [count]: 0, 1, ..., likewise."""
    if is_torch(like):
        import torch

        return torch.arange(count, dtype=torch.int32, device=like.device)
    return _array_module(like).arange(count, dtype="int32")


def pack_bits(mask: Any) -> Any:
    """Booleans [rows, keys] as bits [rows, ceil(keys / 8)], least significant first."""
    if is_torch(mask):
        import torch

        rows, keys = mask.shape
        padded = torch.nn.functional.pad(mask.to(torch.uint8), (0, -keys % 8))
        weights = 2 ** torch.arange(8, dtype=torch.uint8, device=mask.device)
        return (padded.reshape(rows, -1, 8) * weights).sum(-1, dtype=torch.uint8)
    return _array_module(mask).packbits(mask, axis=1, bitorder="little")


def _array_module(like: Any) -> Any:
    """The module of numpy's functions for arrays like this one."""
    framework = framework_of(like)
    if framework == "cupy":
        import cupy

        return cupy
    if framework == "jax":
        import jax

        return jax.numpy
    if is_gpu_array(like):
        raise InvalidArgumentError(
            f"arrays of {framework} on a GPU: octavo.attention makes some of its own, for torch, cupy "
            "and jax; octavo.Plan.run takes all"
        )
    import numpy

    return numpy
