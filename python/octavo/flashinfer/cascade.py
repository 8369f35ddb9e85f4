"""Attention over parts of the keys, merged; in FlashInfer's base, 2."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import octavo

from ._checks import refuse, require_same_device, require_tensor


def merge_state(v_a: Tensor, s_a: Tensor, v_b: Tensor, s_b: Tensor) -> tuple[Tensor, Tensor]:
    """The outputs [tokens, heads, d] and base-2 LSEs [tokens, heads] of two parts, as of all keys."""
    if v_a.shape != v_b.shape or s_a.shape != s_b.shape:
        refuse(f"v_b and s_b have shapes {tuple(v_b.shape)} and {tuple(s_b.shape)}: must be as v_a and "
               f"s_a, {tuple(v_a.shape)} and {tuple(s_a.shape)}")  # fmt: skip
    if v_a.dtype != v_b.dtype:
        refuse(f"v_b is {v_b.dtype}: must be as v_a, {v_a.dtype}")
    require_same_device(v_a=v_a, s_a=s_a, v_b=v_b, s_b=s_b)
    return merge_states(torch.stack((v_a, v_b), dim=1), torch.stack((s_a, s_b), dim=1))


def merge_states(v: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """The outputs [tokens, states, heads, d] and base-2 LSEs [tokens, states, heads] of parts of the
    keys, as of all: v [tokens, heads, d] in its dtype, s float32 [tokens, heads]. Sums are in fp32, in
    the order of the states; a part without keys has s = -inf, and its v does not matter."""
    require_tensor("v", v, 4)
    if tuple(require_tensor("s", s, 3).shape) != tuple(v.shape[:3]):
        refuse(f"s has shape {tuple(s.shape)}: must be {tuple(v.shape[:3])}")
    require_same_device(v=v, s=s)
    if v.shape[1] == 0:
        shape = (len(v), *v.shape[2:])
        return v.new_zeros(shape), s.new_full(shape[:-1], -math.inf, dtype=torch.float32)
    natural = s.float().transpose(0, 1) * math.log(2)
    merged, lse = octavo.merge_states(v.transpose(0, 1), natural)
    return merged, lse / math.log(2)
