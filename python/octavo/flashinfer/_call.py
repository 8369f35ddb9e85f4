"""What FlashInfer's wrappers and single-request functions share: settings, custom masks, and the LSE in
FlashInfer's base and layout."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._attention import attention
from .._errors import UnsupportedError
from ._checks import (
    alibi_slopes,
    refuse,
    require_absent,
    require_integer,
    require_number,
    require_same_device,
    require_tensor,
)


@dataclass(frozen=True)
class Settings:
    """How the logits are made of q and k, and which a query sees."""

    causal: bool = False
    alibi: bool = False
    window_left: int = -1
    soft_cap: float | None = None
    scale: float | None = None

    @classmethod
    def checked(
        cls, causal: bool, pos_encoding_mode: Any, window_left: Any, soft_cap: Any, scale: Any
    ) -> Settings:
        if pos_encoding_mode not in ("NONE", "ALIBI", "ROPE_LLAMA"):
            refuse(f"pos_encoding_mode={pos_encoding_mode!r}: must be NONE or ALIBI")
        if pos_encoding_mode == "ROPE_LLAMA":
            raise UnsupportedError(
                "pos_encoding_mode='ROPE_LLAMA': Octavo does not rotate q and k; rotate them before"
            )
        cap = require_number("logits_soft_cap", soft_cap or 0, 0) or None
        alibi = pos_encoding_mode == "ALIBI"
        if alibi and cap is not None:
            raise UnsupportedError(
                f"pos_encoding_mode='ALIBI' with logits_soft_cap={cap}: FlashInfer caps the sum of "
                "logit and bias, Octavo the logit"
            )
        left = require_integer("window_left", window_left, -1)
        number = None if scale is None else require_number("sm_scale", scale)
        return cls(bool(causal), alibi, left, cap, number)

    @property
    def mask(self) -> str:
        """As octavo.attention spells it."""
        if self.window_left < 0:
            return "causal" if self.causal else "none"
        return f"window:{self.window_left},{0 if self.causal else -1}"


def call(
    settings: Settings,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    q_lens: Tensor,
    kv_lens: Tensor,
    scales: dict[str, Any],
    sinks: Tensor | None = None,
    mask_bits: Tensor | None = None,
    out: Tensor | None = None,
    out_dtype: torch.dtype,
    lse: Tensor | None = None,
    return_lse: bool = False,
    lse_base: str = "log2",
    lse_layout: str = "NH",
    **places: Any,
) -> Any:
    """octavo.attention, which gets `places` too; returns out, or (out, LSE).

    q_lens, kv_lens    int32 [requests]
    mask_bits          uint8 [total_q, bytes], in the place of the mask of the settings
    scales             q_scale, k_scale, v_scale, out_scale: numbers or tensors, or None
    """
    if lse_base not in ("log2", "ln"):
        refuse(f"lse_base={lse_base!r}: must be log2 or ln")
    if lse_layout not in ("NH", "HN"):
        refuse(f"lse_layout={lse_layout!r}: must be NH or HN")
    if settings.alibi and sinks is not None:
        raise UnsupportedError(
            "sinks with pos_encoding_mode='ALIBI': FlashInfer counts the bias from each request's first "
            "query, Octavo from the query's own position"
        )
    heads = q.shape[1]
    if lse is not None:
        wanted = (q.shape[0], heads) if lse_layout == "NH" else (heads, q.shape[0])
        if tuple(require_tensor("lse", lse, 2).shape) != wanted or lse.dtype != torch.float32:
            refuse(f"lse is {lse.dtype} {tuple(lse.shape)}: must be torch.float32 {wanted}")
    if out is not None and out.dtype != out_dtype:
        refuse(f"out is {out.dtype}: the plan's o_data_type is {out_dtype}")
    require_same_device(q=q, k=k, v=v, out=out, lse=lse, sinks=sinks)
    scales = {name: 1.0 if value is None else value for name, value in scales.items()}
    slopes = alibi_slopes(heads, q.device) if settings.alibi else None
    results = attention(
        q, k, v, q_lens=q_lens, kv_lens=kv_lens, **scales, **places,
        mask="none" if mask_bits is not None else settings.mask, mask_bits=mask_bits,
        softmax_scale=settings.scale, soft_cap=settings.soft_cap, sinks=sinks, alibi_slopes=slopes,
        out=out, out_dtype=out_dtype if out is None else None, return_lse=return_lse,
        lse=lse if return_lse and lse_layout == "NH" else None,
    )  # fmt: skip
    if not return_lse:
        return results
    result, natural = results
    if slopes is not None:
        natural += _first_positions(q_lens, kv_lens, q.shape[0])[:, None] * slopes
    if lse_base == "log2":
        natural *= math.log2(math.e)
    if lse_layout == "HN":
        transposed = natural.t().contiguous() if lse is None else lse.copy_(natural.t())
        return result, transposed
    return result, natural


def _first_positions(q_lens: Tensor, kv_lens: Tensor, rows: int) -> Tensor:
    """float32 [rows]: where each row's request has its first query. FlashInfer's ALiBi counts keys from
    the number of the query in its request, not from its position, which shifts the LSE alone."""
    row = torch.arange(rows, device=q_lens.device)
    request = torch.searchsorted(q_lens.cumsum(0), row, right=True)
    return (kv_lens - q_lens)[request.clamp(max=len(q_lens) - 1)].float()


def head_scales(q_heads: int, kv_heads: int, scales: Any) -> dict[str, Any]:
    """FlashInfer's scale_q, scale_k and scale_v of fp8, one number per head, as octavo.attention's."""
    names = ("q_scale", "k_scale", "v_scale")
    for name, scale, heads in zip(names, scales, (q_heads, kv_heads, kv_heads)):
        if isinstance(scale, Tensor) and scale.numel() not in (1, heads):
            refuse(f"{name} has {scale.numel()} entries: must have 1 or {heads}")
    scale_q = scales[0]
    if isinstance(scale_q, Tensor) and scale_q.numel() > 1 and q_heads != kv_heads:
        raise UnsupportedError(
            f"scale_q of {q_heads} heads with {kv_heads} KV heads: Octavo has one of q per KV head"
        )
    return dict(zip(names, scales))


def require_no_extras(args: tuple[Any, ...], **arguments: Any) -> None:
    """FlashInfer's arguments for what Octavo has no kernel for."""
    if args:
        raise UnsupportedError(f"{len(args)} arguments for a custom kernel: Octavo compiles none")
    require_absent("NVFP4 caches", kv_cache_sf=arguments.pop("kv_cache_sf", None))
    require_absent("custom kernels", jit_args=arguments.pop("jit_args", None))
    require_absent("multi-item scoring", **arguments)


def mask_rows(
    custom: Tensor | None, packed: Tensor | None, q_lens: Tensor, kv_lens: Tensor, window_left: int
) -> Tensor | None:
    """FlashInfer's flattened masks, [q_len * kv_len] of one request after another, as bool [total_q,
    keys]. `packed` has the same as bits, least significant first. Lengths are in host memory."""
    if custom is None and packed is None:
        return None
    q_lens, kv_lens = q_lens.long(), kv_lens.long()
    areas = q_lens * kv_lens
    if packed is None:
        flat = require_tensor("custom_mask", custom.reshape(-1), 1).bool()
        name = "custom_mask"
    else:
        if packed.dtype != torch.uint8:
            refuse(f"packed_custom_mask is {packed.dtype}: must be torch.uint8")
        if (areas[:-1] % 8 != 0).any():
            raise UnsupportedError(
                f"packed_custom_mask of requests of {areas.tolist()} bits: only the last may end within "
                "a byte; give custom_mask"
            )
        shifts = torch.arange(8, dtype=torch.uint8, device=packed.device)
        flat = (packed.reshape(-1, 1) >> shifts & 1).reshape(-1).bool()
        flat = flat[: int(areas.sum())]
        name = "packed_custom_mask"
    if len(flat) != int(areas.sum()):
        refuse(f"{name} has {len(flat)} entries: must have {int(areas.sum())}")
    request = torch.repeat_interleave(torch.arange(len(q_lens)), q_lens)
    row = torch.arange(len(request)) - (q_lens.cumsum(0) - q_lens)[request]
    first = (areas.cumsum(0) - areas)[request] + row * kv_lens[request]
    keys = torch.arange(int(kv_lens.max()) if len(kv_lens) else 0)
    seen = keys < kv_lens[request, None]
    at = torch.where(seen, first[:, None] + keys, 0)
    if window_left >= 0:
        position = (kv_lens - q_lens)[request] + row
        seen &= keys >= position[:, None] - window_left
    if len(flat) == 0:
        return seen.to(flat.device)
    return flat[at.to(flat.device)] & seen.to(flat.device)
