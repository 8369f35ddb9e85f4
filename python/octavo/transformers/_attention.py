"""The attention that transformers' models call."""

from __future__ import annotations

from typing import Any

import torch

from .._attention import attention as octavo_attention
from .._errors import InvalidArgumentError, UnsupportedError
from ._masks import Mask
from ._paged_cache import PagedLayer

# Arguments that models pass on to every attention, and that change nothing in it.
_WITHOUT_EFFECT = frozenset(
    "cache_position deterministic layer_idx logits_to_keep num_items_in_batch output_hidden_states "
    "output_router_logits past_key_values position_embeddings position_ids return_dict use_cache".split()
)


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor | PagedLayer,
    value: torch.Tensor | PagedLayer,
    attention_mask: Mask | torch.Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface of attn_implementation="octavo".

    query        [batch, hq, q_length, d]
    key, value   [batch, hkv, kv_length, d or dv], or where a `PagedCache` has them
    attention_mask    what `octavo.transformers.mask` made, or a caller's own: booleans [batch or 1, 1,
                 q_length, kv_length], or numbers that are 0 or as good as minus infinity
    s_aux        [hq]: sinks

    Returns [batch, q_length, hq, dv], and None for the attention weights. Rows of padding on the right
    are 0. Raises UnsupportedError for what Octavo cannot do.
    """
    _refuse(dropout, others)
    if is_causal is None:
        is_causal = getattr(module, "is_causal", True)
    options = {"softmax_scale": scaling, "soft_cap": softcap, "sinks": s_aux}
    if isinstance(key, PagedLayer):
        return key.cache.attend(key.layer, query, attention_mask, **options), None
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    if attention_mask is None:
        word = _word_without_mask(q.shape[1], k.shape[1], is_causal, sliding_window)
        return octavo_attention(q, k, v, mask=word, **options), None
    if not isinstance(attention_mask, Mask):
        return octavo_attention(q, k, v, mask_bits=_rows(attention_mask, q, k), **options), None
    return _within_spans(q, k, v, attention_mask, options), None


def _refuse(dropout: float, others: dict[str, Any]) -> None:
    if dropout:
        raise UnsupportedError(f"dropout={dropout}: there is none in inference; use model.eval()")
    if others.pop("output_attentions", None):
        raise UnsupportedError("output_attentions=True: attention weights are never stored")
    for name, argument in others.items():
        if name not in _WITHOUT_EFFECT and argument is not None:
            raise UnsupportedError(f"{name}: this model's attention has an argument that Octavo has not")


def _word_without_mask(
    q_length: int, kv_length: int, is_causal: bool, sliding_window: int | None
) -> str:
    if not is_causal:
        if sliding_window is not None and kv_length > sliding_window:
            raise UnsupportedError(
                f"sliding_window={sliding_window} without a mask that says how it is meant"
            )
        return "none"
    if q_length not in (1, kv_length):
        raise InvalidArgumentError(
            f"attention_mask is None: {q_length} causal queries of {kv_length} keys need one that says "
            "where they are"
        )
    return "causal" if sliding_window is None else f"window:{sliding_window - 1},0"


def _rows(mask: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """A caller's mask as booleans [batch * q_length, kv_length]."""
    batch, q_length, kv_length = q.shape[0], q.shape[1], k.shape[1]
    shape = tuple(mask.shape)
    if mask.ndim != 4 or shape[0] not in (1, batch) or shape[2:] != (q_length, kv_length):
        raise InvalidArgumentError(
            f"attention_mask has the shape {shape}: must be [{batch} or 1, 1, {q_length}, {kv_length}]"
        )
    if shape[1] != 1:
        raise UnsupportedError(f"attention_mask has the shape {shape}: a mask for each head")
    if mask.dtype != torch.bool:
        seen = mask == 0
        # Half the least float16 can be, and so hidden in any dtype that masks are made in.
        if not bool((seen | (mask < -32_000)).all()):
            raise UnsupportedError("attention_mask adds numbers to the scores: must hide keys or not")
        mask = seen
    return mask.expand(batch, 1, q_length, kv_length).reshape(batch * q_length, kv_length)


def _within_spans(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Mask, options: dict[str, Any]
) -> torch.Tensor:
    """The keys of each request begin and end where its padding does."""
    span = mask.uniform
    if span is not None:
        k, v = k[:, span.start : span.stop], v[:, span.start : span.stop]
        return octavo_attention(q, k, v, mask=mask.word, **options)
    if mask.q_length == 1:
        seen = mask.last_row
        k, v = k[:, : seen.shape[1]], v[:, : seen.shape[1]]
        return octavo_attention(q, k, v, mask_bits=seen, **options)
    out = q.new_zeros((*q.shape[:-1], v.shape[-1]))
    for request, span in enumerate(mask.spans):
        if span.rows:
            rows, keys = slice(request, request + 1), slice(span.start, span.stop)
            out[rows, : span.rows] = octavo_attention(
                q[rows, : span.rows], k[rows, keys], v[rows, keys], mask=mask.word, **options
            )
    return out
