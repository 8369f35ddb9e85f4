"""`trtllm_fmha_v2_prefill`, with FlashInfer's signature and meanings, and without FMHAv2's gaps."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .._arrays import dtype_name
from .._attention import attention
from ._checks import (
    alibi_slopes,
    as_dtype,
    refuse,
    require_integer,
    require_integers,
    require_number,
    require_same_device,
    require_sums,
)
from ._layouts import Inputs, unpack, with_one_table

_E4M3_OUTPUTS = (torch.float8_e4m3fn, torch.float16, torch.bfloat16)
_DTYPES = (*_E4M3_OUTPUTS, torch.float32)


def trtllm_fmha_v2_prefill(
    qkv: Tensor | tuple[Any, ...],
    input_layout: str,
    workspace_buffer: Tensor | None,
    seq_lens: Tensor,
    max_q_len: int,
    max_kv_len: int,
    bmm1_scale: float,
    bmm2_scale: float,
    batch_size: int,
    cum_seq_lens_q: Tensor,
    cum_seq_lens_kv: Tensor,
    block_tables: Tensor | None = None,
    out: Tensor | None = None,
    out_dtype: torch.dtype | str | None = None,
    sinks: Tensor | list[Tensor] | None = None,
    pos_encoding_mode: str | None = None,
    logits_soft_cap_scale: float | None = None,
    mask_mode: str = "causal",
    window_left: int = -1,
    chunked_attention_size: int = 0,
    save_softmax_stats: bool = False,
    skip_softmax_threshold_scale_factor: float = 0,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention of ragged queries over packed, contiguous, separate or paged keys and values.

    Tensors are all on the CPU or all on one GPU; there the host neither waits nor reads them.

    qkv               by `input_layout`: PACKED_QKV [tokens, 3, heads, d], or [tokens, hq + 2 hkv, d]
                      with `out` given, or (q, k, v) as views of that; CONTIGUOUS_Q_KV (q, kv
                      [tokens, 2, hkv, d]); SEPARATE_Q_K_V (q, k, v); Q_PAGED_KV_NHD (q, pool
                      [pages, 2, page, hkv, d]); Q_PAGED_KV_HND (q, pool [pages, 2, hkv, page, d]);
                      instead of a pool (k_cache, v_cache) in one allocation
    workspace_buffer  not used
    seq_lens          [batch_size]: the lengths of the keys; cum_seq_lens_kv is what is read
    max_q_len, max_kv_len    no request is longer
    bmm1_scale        of q.k, with q's and k's scales; 0 is 1 / sqrt(d)
    bmm2_scale        of the result, for every dtype
    cum_seq_lens_q, cum_seq_lens_kv    [batch_size + 1]: running sums of tokens
    block_tables      int32 [batch_size, columns]; for (k_cache, v_cache) [batch_size, 2, columns], K's
                      and V's pages, both counted from K's first
    out, out_dtype    default q's dtype; `out` is written, whatever out_dtype says, and returned
    sinks             [hq]: natural-log logits in the denominator
    pos_encoding_mode None or "alibi": slope * (key - position) with the usual slopes
    logits_soft_cap_scale    cap * tanh(logit / cap); None or 0 is off
    mask_mode         "padding" (every key), "causal", "sliding_window" or "chunked"; query i sits at
                      kv_len - q_len + i, and window_left or chunked_attention_size apply to any but
                      "padding"
    window_left       keys back from the query's own, which is always seen; -1 is off
    chunked_attention_size    of any size; 0 is off
    save_softmax_stats    also return float32 [total_q, hq, 2]: the largest logit over bmm1_scale *
                      sqrt(d) (over sqrt(d) with a soft cap), and the sum of exp(logit - largest),
                      without the sink. Costs a second pass, a third with sinks
    skip_softmax_threshold_scale_factor    allows FMHAv2 to be less exact; the result is exact here

    Returns out [total_q, hq, dv], or (out, statistics).

    Raises octavo.InvalidArgumentError or InvalidProblemError, which are ValueErrors, before any output
    is touched. What only the host could check is not checked on a GPU.
    """
    batch = require_integer("batch_size", batch_size, 0)
    max_q = require_integer("max_q_len", max_q_len, 0)
    max_kv = require_integer("max_kv_len", max_kv_len, 0)
    require_number("skip_softmax_threshold_scale_factor", skip_softmax_threshold_scale_factor, 0)
    inputs = unpack(qkv, input_layout, block_tables, batch, out)
    lens = require_integers("seq_lens", seq_lens, batch)
    sums_q = require_integers("cum_seq_lens_q", cum_seq_lens_q, batch + 1)
    sums_kv = require_integers("cum_seq_lens_kv", cum_seq_lens_kv, batch + 1)
    sink_logits = _sinks(sinks, inputs.q.device)
    require_same_device(
        q=inputs.q, k=inputs.k, v=inputs.v, out=out, seq_lens=lens, cum_seq_lens_q=sums_q,
        cum_seq_lens_kv=sums_kv, block_tables=inputs.k_pages, sinks=sink_logits,
    )  # fmt: skip
    dtype = _result_dtype(inputs, out, out_dtype)
    if inputs.q.device.type == "cpu":
        _check_lengths(inputs, input_layout, lens, sums_q, sums_kv, max_q, max_kv)

    mask = _mask(mask_mode, window_left, chunked_attention_size)
    slopes = None
    if _is_alibi(pos_encoding_mode):
        if mask == "none":
            refuse("pos_encoding_mode='alibi' with mask_mode='padding': FMHAv2 computes it with a "
                   "causal mask; say mask_mode='causal'")  # fmt: skip
        slopes = alibi_slopes(inputs.q.shape[1], inputs.q.device)
    scale = require_number("bmm1_scale", bmm1_scale) or inputs.q.shape[-1] ** -0.5
    cap = require_number("logits_soft_cap_scale", logits_soft_cap_scale or 0, 0) or None

    kv_lens = (sums_kv[1:] - sums_kv[:-1]).to(torch.int32)
    inputs = with_one_table(inputs, kv_lens)
    given = {
        "q": inputs.q,
        "k": inputs.k,
        "v": inputs.v,
        "cu_seqlens_q": sums_q,
        "kv_lens": kv_lens,
        "page_table": inputs.k_pages,
        "order": inputs.order,
        "max_q_len": max_q,
        "max_kv_len": max_kv,
        "mask": mask,
        "softmax_scale": 1.0,  # the number is q's scale: a plan then serves every layer's
        "v_scale": require_number("bmm2_scale", bmm2_scale),
    }
    logits = {"q_scale": scale, "soft_cap": cap, "alibi_slopes": slopes}
    want_lse = save_softmax_stats and sink_logits is None
    results = attention(
        **given, **logits, sinks=sink_logits, return_lse=want_lse, out=out,
        out_dtype=dtype if out is None else None,
    )  # fmt: skip
    if not save_softmax_stats:
        return results
    result, lse = results if want_lse else (results, None)
    return result, _statistics(given, logits, lse)


def _statistics(given: dict[str, Any], logits: dict[str, Any], lse: Tensor | None) -> Tensor:
    """[total_q, hq, 2], as the function's description says. `lse` counts no sink."""

    def lse_of(factor: float) -> Tensor:
        """The LSE of all logits times a power of two."""
        scaled = {name: x if x is None else x * factor for name, x in logits.items()}
        return attention(**given, **scaled, return_lse=True)[1]

    # log(n * exp(f * x)) / f exceeds x by log(n) / f: with this f, by less than fp32 resolves.
    sharpness = 2.0**24
    largest = lse_of(sharpness) / sharpness
    if lse is None:
        lse = lse_of(1.0)
    sums = torch.where(largest.isfinite(), torch.exp(lse - largest), 0.0)
    unit = math.sqrt(given["q"].shape[-1])
    if logits["soft_cap"] is None:
        unit *= logits["q_scale"]
    return torch.stack((largest / unit, sums), dim=-1)


def _mask(mode: Any, window_left: int | None, chunk: int | None) -> str:
    """As octavo.attention spells it."""
    if not isinstance(mode, str) or mode.lower() not in (
        "padding", "causal", "sliding_window", "chunked"
    ):  # fmt: skip
        refuse(f"mask_mode={mode!r}: must be padding, causal, sliding_window or chunked")
    left = -1 if window_left is None else require_integer("window_left", window_left, -1)
    size = require_integer("chunked_attention_size", chunk or 0, 0)
    if mode.lower() == "padding":
        for name, value, off in (("window_left", left, -1), ("chunked_attention_size", size, 0)):
            if value != off:
                refuse(f"{name}={value}: mask_mode='padding' sees every key")
        return "none"
    if left >= 0 and size > 0:
        refuse(f"window_left={left} and chunked_attention_size={size}: give one of them")
    if size > 0:
        return f"chunked:{size}"
    return f"window:{left},0" if left >= 0 else "causal"


def _is_alibi(mode: Any) -> bool:
    if mode is not None and (not isinstance(mode, str) or mode.lower() not in ("none", "alibi")):
        refuse(f"pos_encoding_mode={mode!r}: must be None or 'alibi'")
    return mode is not None and mode.lower() == "alibi"


def _sinks(sinks: Any, device: torch.device) -> Tensor | None:
    if isinstance(sinks, (list, tuple)):
        if not all(isinstance(x, Tensor) for x in sinks):
            return torch.tensor(sinks, dtype=torch.float32, device=device)
        return torch.cat([x.reshape(-1) for x in sinks])
    if sinks is not None and not isinstance(sinks, Tensor):
        refuse(f"sinks is a {type(sinks).__name__}: must be a tensor [num_heads] or a list")
    return sinks


def _result_dtype(inputs: Inputs, out: Tensor | None, out_dtype: Any) -> torch.dtype:
    """`out`'s, or what was asked for, or q's; refuses the mixes that FMHAv2 reads as something else."""
    q, k, v = inputs.q.dtype, inputs.k.dtype, inputs.v.dtype
    if q not in _DTYPES:
        names = ", ".join(str(dtype) for dtype in _DTYPES)
        refuse(f"q is {q}: must be one of {names}")
    if k != q or v != q:
        refuse(f"k is {k} and v is {v}: must be as q, {q}")
    if out is not None:
        dtype = out.dtype
    else:
        dtype = q if out_dtype is None else as_dtype("out_dtype", out_dtype)
    allowed = _E4M3_OUTPUTS if q == torch.float8_e4m3fn else (q,)
    if dtype not in allowed:
        names = " or ".join(dtype_name(x) for x in allowed)
        refuse(f"out is {dtype_name(dtype)}: must be {names}, as q is {dtype_name(q)}")
    return dtype


def _check_lengths(
    inputs: Inputs, layout: str, lens: Tensor, sums_q: Tensor, sums_kv: Tensor, max_q: int, max_kv: int
) -> None:
    """What the host can look at."""
    require_sums("cum_seq_lens_q", sums_q)
    require_sums("cum_seq_lens_kv", sums_kv)
    q_lens, kv_lens = (sums[1:] - sums[:-1] for sums in (sums_q, sums_kv))
    for r, (length, kv_len) in enumerate(zip(lens.tolist(), kv_lens.tolist())):
        if length != kv_len:
            refuse(f"seq_lens[{r}]={length}: cum_seq_lens_kv says {kv_len}")
    if layout == "PACKED_QKV" and not torch.equal(sums_q, sums_kv.to(sums_q.dtype)):
        refuse(f"cum_seq_lens_kv={sums_kv.tolist()}: PACKED_QKV has as many keys as queries, "
               f"cum_seq_lens_q={sums_q.tolist()}")  # fmt: skip
    for name, values, bound in (("max_q_len", q_lens, max_q), ("max_kv_len", kv_lens, max_kv)):
        longest = max(values.tolist(), default=0)
        if longest > bound:
            refuse(f"{name}={bound}: a request has {longest} tokens")
    if inputs.k_pages is None and inputs.k.shape[0] < int(sums_kv[-1]):
        refuse(f"cum_seq_lens_kv[-1]={int(sums_kv[-1])}: there are keys of {inputs.k.shape[0]} tokens")
