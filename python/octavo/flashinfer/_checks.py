"""What several of the functions refuse, in one voice: the argument, its value, what would be right."""

from __future__ import annotations

import math
import numbers
from typing import Any, NoReturn

import torch
from torch import Tensor

from .._errors import InvalidArgumentError, UnsupportedError


def refuse(message: str) -> NoReturn:
    raise InvalidArgumentError(message)


def require_tensor(name: str, value: Any, dimensions: int) -> Tensor:
    if not isinstance(value, Tensor):
        refuse(f"{name} is a {type(value).__name__}: must be a torch tensor")
    if value.ndim != dimensions:
        refuse(f"{name} has shape {tuple(value.shape)}: must have {dimensions} dimensions")
    return value


def require_integers(name: str, value: Any, size: int) -> Tensor:
    """Lengths or their running sums: one dimension of `size`, any integer dtype."""
    tensor = require_tensor(name, value, 1)
    if tensor.dtype.is_floating_point or tensor.dtype == torch.bool:
        refuse(f"{name} is {tensor.dtype}: must be int32")
    if tensor.shape[0] != size:
        refuse(f"{name} has {tensor.shape[0]} entries: must have {size}")
    return tensor


def require_number(name: str, value: Any, least: float = -math.inf) -> float:
    if not isinstance(value, numbers.Real):
        refuse(f"{name} is a {type(value).__name__}: must be a number")
    if not math.isfinite(value) or value < least:
        bound = "" if least == -math.inf else f" and at least {least:g}"
        refuse(f"{name}={value}: must be finite{bound}")
    return float(value)


def require_integer(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        refuse(f"{name} is a {type(value).__name__}: must be an integer")
    if value < least:
        refuse(f"{name}={value}: must be at least {least}")
    return int(value)


def require_same_device(**tensors: Tensor | None) -> None:
    """The first is never None, and says which device."""
    (first, wanted), *others = tensors.items()
    for name, tensor in others:
        if tensor is not None and tensor.device != wanted.device:
            refuse(f"{name} is on {tensor.device}: {first} is on {wanted.device}")


def require_sums(name: str, sums: Tensor) -> None:
    """Running sums in host memory: from 0, never falling."""
    values = sums.tolist()
    if values[0] != 0:
        refuse(f"{name}[0]={values[0]}: must be 0")
    for i, (last, value) in enumerate(zip(values, values[1:]), 1):
        if value < last:
            refuse(f"{name}[{i}]={value}: must be at least {name}[{i - 1}]={last}")


def require_absent(what: str, **arguments: Any) -> None:
    """Arguments that ask for what Octavo does not have."""
    for name, value in arguments.items():
        if value is not None:
            raise UnsupportedError(f"{name} is given: Octavo has no {what}")


def as_dtype(name: str, value: Any) -> torch.dtype:
    dtype = getattr(torch, value, None) if isinstance(value, str) else value
    if not isinstance(dtype, torch.dtype):
        refuse(f"{name}={value!r}: must be a torch dtype or the name of one")
    return dtype


def alibi_slopes(heads: int, device: torch.device) -> Tensor:
    """The usual slopes, float32 [heads]: 2^(-8 i / n) for the n heads up to a power of two, and
    2^(-4 (2 i - 1) / n) for those past it. Nothing is copied from the host."""
    power = 1 << (heads.bit_length() - 1)
    steps = torch.arange(heads, dtype=torch.float32, device=device)
    near = -8 / power * (steps + 1)
    past = -4 / power * (2 * (steps - power) + 1)
    return torch.exp2(torch.where(steps < power, near, past))
