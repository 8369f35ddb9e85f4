"""The torch operators octavo::attention, octavo::attention_out, octavo::merge_states and
octavo::merge_states_out, for torch.compile and export.

`octavo.attention` and `octavo.merge_states` call them. `problem` is a problem in its text form without the lengths, which the
operators read from q_lens and kv_lens on the CPU; on a GPU they take max_q_len and max_kv_len as
bounds, and what the tensors have room for where these are 0. `scales` and `scale_arrays` are q's, k's,
v's and out's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._arrays import LONG_NAMES
from ._attention import compute
from ._merge import compute as merge

_INPUTS = (
    "str problem, str kernel, SymInt max_q_len, SymInt max_kv_len, "
    "Tensor q, Tensor k, Tensor v, Tensor q_lens, Tensor kv_lens, "
    "Tensor? page_table, Tensor? mask_bits, Tensor? sinks, Tensor? alibi_slopes, "
    "float[] scales, Tensor?[] scale_arrays"
)


def _results(problem: str, q: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Uninitialised out [total_q, hq, dv] and LSE [total_q, hq], or [0, hq] if it is not wanted."""
    words = problem.split()
    dtype = next(word.removeprefix("out=") for word in words if word.startswith("out="))
    out = q.new_empty((q.shape[0], q.shape[1], v.shape[-1]), dtype=getattr(torch, LONG_NAMES[dtype]))
    rows = q.shape[0] if "lse" in words else 0
    return out, q.new_empty((rows, q.shape[1]), dtype=torch.float32)


@torch.library.custom_op(
    "octavo::attention",
    mutates_args=(),
    device_types=("cpu", "cuda"),
    schema=f"({_INPUTS}) -> (Tensor, Tensor)",
)
def attention(
    problem: str, kernel: str, max_q: int, max_kv: int, q: Tensor, k: Tensor, v: Tensor, *rest: Any
) -> Any:
    out, lse = _results(problem, q, v)
    wanted = lse if "lse" in problem.split() else None
    compute(problem, kernel, max_q, max_kv, q, k, v, *rest, out, wanted)
    return out, lse


@attention.register_fake
def _(problem, kernel, max_q, max_kv, q, k, v, *_):  # type: ignore[no-untyped-def]
    return _results(problem, q, v)


attention_out = torch.library.custom_op(
    "octavo::attention_out",
    compute,
    mutates_args=("out", "lse"),
    device_types=("cpu", "cuda"),
    schema=f"({_INPUTS}, Tensor(a!) out, Tensor(b!)? lse) -> ()",
)


@attention_out.register_fake
def _(*_):  # type: ignore[no-untyped-def]
    return None


@torch.library.custom_op("octavo::merge_states", mutates_args=(), device_types=("cpu", "cuda"))
def merge_states(parts: Tensor, parts_lse: Tensor, out_dtype: str) -> tuple[Tensor, Tensor]:
    out, lse = _merged(parts, out_dtype)
    merge(parts, parts_lse, out, lse)
    return out, lse


@merge_states.register_fake
def _(parts, parts_lse, out_dtype):  # type: ignore[no-untyped-def]
    return _merged(parts, out_dtype)


merge_states_out = torch.library.custom_op(
    "octavo::merge_states_out",
    merge,
    mutates_args=("out", "lse"),
    device_types=("cpu", "cuda"),
    schema="(Tensor parts, Tensor parts_lse, Tensor(a!) out, Tensor(b!) lse) -> ()",
)


@merge_states_out.register_fake
def _(*_):  # type: ignore[no-untyped-def]
    return None


def _merged(parts: Tensor, out_dtype: str) -> tuple[Tensor, Tensor]:
    """Uninitialised results of a merge."""
    out = parts.new_empty(parts.shape[1:], dtype=getattr(torch, LONG_NAMES[out_dtype]))
    return out, parts.new_empty(parts.shape[1:3], dtype=torch.float32)
