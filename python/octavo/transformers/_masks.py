"""What a transformers model masks, in Octavo's words.

transformers describes a mask by a function of indices and a padding mask, and lets each attention
implementation make of them what it needs. Patterns that Octavo has a word for are found by comparing
what the function says with what the word means, so a function that is anything else is never taken for
one of them. What has no word stays a mask of booleans, which Octavo computes too, more slowly.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch
from transformers.masking_utils import (
    bidirectional_mask_function,
    causal_mask_function,
    prepare_padding_mask,
    sdpa_mask,
)


@dataclasses.dataclass(frozen=True)
class Span:
    """What a request of a padded batch consists of."""

    start: int  # the first key that is no padding
    stop: int  # past the last one
    rows: int  # leading query rows up to the last that is no padding on the right


@dataclasses.dataclass(frozen=True, eq=False)
class Mask:
    """A mask that Octavo has a word for, and the padding around it.

    Not a tensor: an attention that does not know Octavo's masks fails on it instead of ignoring it.
    """

    words: tuple[str, ...]  # as in octavo.attention, among the keys of each span: all mean the same here
    spans: tuple[Span, ...]  # of each request
    q_length: int
    device: torch.device

    @property
    def word(self) -> str:
        return self.words[0]

    # What transformers asks of masks that `generate` makes ahead, for static caches.
    ndim = 4

    def contiguous(self) -> Mask:
        return self

    @property
    def uniform(self) -> Span | None:
        """The span of all requests, if they agree and no row is padding."""
        first = self.spans[0]
        return first if first.rows == self.q_length and set(self.spans) == {first} else None

    @functools.cached_property
    def last_row(self) -> torch.Tensor:
        """What the only query of each request sees: bool [requests, keys]."""
        kind, _, numbers = self.word.partition(":")
        left = int(numbers.partition(",")[0]) if kind == "window" else None
        first = []
        for span in self.spans:
            position = span.stop - 1
            begin = 0 if left is None else position - left
            if kind == "chunked":
                size = int(numbers)
                begin = span.start + (position - span.start) // size * size
            first.append(max(span.start, begin))
        stops = [span.stop if span.rows else 0 for span in self.spans]
        keys = torch.arange(max(span.stop for span in self.spans), device=self.device)
        begin, end = (torch.tensor(x, device=self.device)[:, None] for x in (first, stops))
        return (keys >= begin) & (keys < end)


def mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | torch.Tensor = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., torch.Tensor] = causal_mask_function,
    attention_mask: Mask | torch.Tensor | None = None,
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    allow_is_bidirectional_skip: bool = False,
    use_vmap: bool = False,
    device: torch.device | str = "cpu",
    **_: Any,
) -> Mask | torch.Tensor | None:
    """transformers' mask interface of attn_implementation="octavo".

    Query i sits at q_offset + i, key j at kv_offset + j. Returns None where every query sees every key,
    a `Mask`, or booleans [batch, 1, q_length, kv_length]: where no word fits, and where transformers
    wants a tensor, as for compiled decoding with a static cache.
    """
    if isinstance(attention_mask, Mask):
        return attention_mask  # made ahead
    sizes = {"q_length": q_length, "kv_length": kv_length, "q_offset": q_offset}
    sizes |= {"kv_offset": kv_offset, "use_vmap": use_vmap, "device": device}
    everything = functools.partial(
        sdpa_mask,
        batch_size=batch_size,
        mask_function=mask_function,
        allow_is_causal_skip=False,
        allow_is_bidirectional_skip=False,
        **sizes,
    )
    wants_tensor = not (allow_is_causal_skip or allow_is_bidirectional_skip)
    if wants_tensor or isinstance(q_offset, torch.Tensor) or torch.compiler.is_compiling():
        return everything(attention_mask=attention_mask)
    stop = q_offset + q_length - kv_offset  # the keys up to the last query
    padding = prepare_padding_mask(attention_mask, kv_length, kv_offset)
    if padding is not None:
        padding = padding[:, kv_offset : kv_offset + kv_length]
    starts = [0] * batch_size if padding is None else _left_padding(padding)
    # Chunks begin at multiples of their size, which are lost when the first keys are.
    words = _words(
        mask_function,
        lambda: everything(attention_mask=None)[:, 0],
        torch.arange(q_length, device=device) + q_offset,
        torch.arange(kv_length, device=device) + kv_offset,
        local_size,
        chunks_from=torch.tensor(starts, device=device) if kv_offset == 0 else None,
    )
    word = words[0] if words else ""
    if word == "none":
        stop = kv_length
    if not word or stop > kv_length or (word.startswith("window") and stop != kv_length):
        return everything(attention_mask=attention_mask)
    if padding is None:
        spans = (Span(0, stop, q_length),) * batch_size
    else:
        found = _spans(padding[:, :stop], q_length, keep_rows=word == "none")
        if found is None:
            return everything(attention_mask=attention_mask)
        spans = found
    if word == "none" and set(spans) == {Span(0, kv_length, q_length)}:
        return None
    return Mask(words, spans, q_length, torch.device(device))


def _left_padding(padding: torch.Tensor) -> list[int]:
    """Masked keys before the first that is not, of each request."""
    return (padding.cumsum(dim=-1) == 0).sum(dim=-1).tolist()


def _spans(padding: torch.Tensor, q_length: int, keep_rows: bool) -> tuple[Span, ...] | None:
    """The spans of the True keys [batch, keys], if each request's are in one piece."""
    keys = padding.shape[1]
    spans = []
    for row in padding.cpu():
        seen = row.nonzero()
        if len(seen) == 0:
            spans.append(Span(0, 0, q_length if keep_rows else 0))
            continue
        start, stop = int(seen[0]), int(seen[-1]) + 1
        if stop - start != len(seen):
            return None
        spans.append(Span(start, stop, q_length if keep_rows else max(q_length - (keys - stop), 0)))
    return tuple(spans)


def _words(
    mask_function: Callable[..., torch.Tensor],
    evaluate: Callable[[], torch.Tensor],
    q: torch.Tensor,
    kv: torch.Tensor,
    size: int | None,
    chunks_from: torch.Tensor | None,
) -> tuple[str, ...]:
    """The words that mean what the function says for all queries at `q` and keys at `kv`."""
    if mask_function is causal_mask_function:
        return ("causal",)
    if mask_function is bidirectional_mask_function:
        return ("none",)
    q, kv = q[:, None], kv[None, :]
    causal = kv <= q
    meanings = {"causal": causal}
    if size is not None:
        meanings[f"window:{size - 1},0"] = causal & (kv > q - size)
        meanings[f"window:{size},{size}"] = (q - kv).abs() <= size
        if chunks_from is not None:
            begin = chunks_from[:, None, None]
            meanings[f"chunked:{size}"] = causal & ((kv - begin) // size == (q - begin) // size)
    meanings["none"] = torch.ones_like(causal)
    seen = evaluate()  # [batch, q, kv]
    return tuple(word for word, keys in meanings.items() if torch.equal(seen, keys.expand_as(seen)))
