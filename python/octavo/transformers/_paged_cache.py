"""`PagedCache`: transformers' keys and values in Octavo's pages."""

from __future__ import annotations

import dataclasses
import inspect
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import Cache, PreTrainedModel

from .._errors import InvalidArgumentError, UnsupportedError
from .._kv_cache import CacheStatistics
from ._masks import Mask
from ._pages import Pages, Step


@dataclasses.dataclass(frozen=True)
class PagedLayer:
    """What `PagedCache.update` returns in the place of keys and of values, for Octavo's attention.

    Not a tensor: another attention fails on it.
    """

    cache: PagedCache
    layer: int


class PagedCache(Cache):
    """A cache for `generate` in pages, which prompts that begin alike share, in one batch and between
    calls:

        cache = PagedCache(model, pages=1000)
        cache.start(**inputs)              # finds what is cached of the prompts
        model.generate(**inputs, past_key_values=cache)

    `start` begins a batch. Without it a batch begins with the first call of the model, and nothing of
    it is taken from earlier ones. The model must have attn_implementation="octavo".

    A row of the batch is a request. Padding takes no room. Pages of layers with a sliding window or
    chunks that no later query sees are given back. What a call does not find room for is refused with
    CacheFullError, and the cache is as before it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        pages: int,
        page_size: int = 16,
        dtype: torch.dtype | None = None,
    ) -> None:
        """
        model        the module that will be called with this cache
        pages        for the layers of each kind: full, sliding window, chunks
        page_size    tokens of a page
        dtype        of what is stored: float32, bfloat16 or float16; by default the keys' own
        """
        # The base class would keep a layer object of its own for each layer.
        self.layers = []
        self.layer_class_to_replicate = None
        self.offloading = False
        config = model.config.get_text_config(decoder=True)
        _require_octavo(model)
        if config.is_encoder_decoder:
            raise UnsupportedError("an encoder and a decoder: the cache is for decoders only")
        if getattr(config, "num_kv_shared_layers", None):
            raise UnsupportedError(
                f"num_kv_shared_layers={config.num_kv_shared_layers}: layers that use others' keys"
            )
        if dtype not in (None, torch.float32, torch.bfloat16, torch.float16):
            raise UnsupportedError(f"dtype={dtype}: must be float32, bfloat16 or float16")
        self._masks = _masks(config)
        self._pages = {mask: Pages(mask, pages, page_size, dtype) for mask in dict.fromkeys(self._masks)}
        self._seen = np.empty((0, 0), bool)  # [rows, columns]: what is no padding of what came
        self._started: tuple[np.ndarray, np.ndarray] | None = None  # ids and padding of a batch
        self._step: Step | None = None
        self._stored: set[int] = set()  # layers that have this step's keys
        _watch(model, self)

    def start(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        *,
        salt: str | bytes = b"",
        **_: Any,
    ) -> int:
        """Begins a batch, and ends the one before it, whose full pages stay until room is needed.

        input_ids         [rows, columns], as the model's call or `generate` will be given them
        attention_mask    [rows, columns]: 0 for padding
        salt              what keys and values depend on besides the tokens: an adapter's name, a
                          tenant. Batches of different salts share nothing

        Returns how many leading columns need not be computed; `generate` leaves them out. Others who
        call the model give it the ids and positions of the columns from there on, and the whole mask.
        """
        ids = _host(input_ids)
        seen = np.ones(ids.shape, bool) if attention_mask is None else _host(attention_mask) != 0
        if ids.ndim != 2 or seen.shape != ids.shape:
            raise InvalidArgumentError(
                f"input_ids and attention_mask have the shapes {ids.shape} and {seen.shape}: must be "
                "[rows, columns], the same"
            )
        self.reset()
        try:
            self._admit([row[used] for row, used in zip(ids, seen)], salt)
        except Exception:
            self.reset()
            raise
        columns = self._cached_columns(seen)
        self._seen = seen[:, :columns]
        self._truncate()
        self._started = ids, seen
        return columns

    def _admit(self, prompts: Sequence[np.ndarray], salt: str | bytes = b"") -> None:
        found = [pages.admit(prompts, salt) for pages in self._pages.values()]
        self._cached = np.min(found, axis=0)  # of each row: tokens that all layers have

    def _cached_columns(self, seen: np.ndarray) -> int:
        """Columns that hold nothing but padding and cached tokens; never all."""
        columns = seen.shape[1] - 1
        for row, cached in zip(seen, self._cached.tolist()):
            used = np.flatnonzero(row)
            if cached < len(used):
                columns = min(columns, int(used[cached]))
        return max(columns, 0)

    def _truncate(self) -> None:
        """Leaves each request the tokens of the present columns."""
        lengths = self._seen.sum(axis=1).tolist()
        for pages in self._pages.values():
            pages.truncate(lengths)

    def _begin(self, ids: Any, attention_mask: Any, count: int, rows: int) -> None:
        """A call of the model is about to compute the next `count` columns."""
        self._abandon()
        columns = self._seen.shape[1]
        seen = np.ones((rows, columns + count), bool)
        if attention_mask is not None:
            if not isinstance(attention_mask, torch.Tensor) or attention_mask.ndim != 2:
                raise UnsupportedError(
                    "attention_mask: pages need one of [rows, columns] that says what is padding"
                )
            seen = _host(attention_mask) != 0
        if seen.shape != (rows, columns + count):
            raise InvalidArgumentError(
                f"attention_mask has the shape {seen.shape}: must be [{rows}, {columns + count}], of "
                f"which the cache has {columns} columns"
            )
        begins = columns == 0 and self._started is None
        if begins:
            self._admit([np.empty(0, np.int32)] * rows)
            self._seen = seen[:, :0]
        if len(self._seen) != rows:
            raise InvalidArgumentError(
                f"the batch has {rows} rows: the cache has {len(self._seen)}; start() or reset() "
                "begins another"
            )
        if not np.array_equal(seen[:, :columns], self._seen):
            raise InvalidArgumentError(
                "attention_mask differs from before: start() begins another batch"
            )
        new = seen[:, columns:]
        self._require_as_started(ids, new)
        tokens = new.sum(axis=1).tolist()
        if ids is not None:
            tokens = [row[used] for row, used in zip(ids, new)]
        done: list[Pages] = []
        try:
            for pages in self._pages.values():
                pages.reserve(tokens)
                done.append(pages)
        except Exception:
            for pages in done:
                pages.truncate(self._seen.sum(axis=1).tolist())
            if begins:
                self.reset()
            raise
        self._step = Step(
            rows=np.flatnonzero(new),
            q_lens=new.sum(axis=1).astype(np.int32),
            q_length=count,
            columns=columns,
        )
        self._next_seen = seen
        self._stored = set()
        for pages in self._pages.values():
            pages.begin(self._step)

    def _require_as_started(self, ids: np.ndarray | None, new: np.ndarray) -> None:
        """What was found is of use only to the batch that it was found for."""
        if self._started is None:
            return
        started_ids, started_seen = self._started
        columns = slice(self._seen.shape[1], self._seen.shape[1] + new.shape[1])
        begun, used = started_ids[:, columns], started_seen[:, columns]
        width = begun.shape[1]
        same = np.array_equal(new[:, :width], used)
        if ids is None or not same or not np.array_equal(ids[:, :width][used], begun[used]):
            raise InvalidArgumentError("input_ids or attention_mask differ from those given to start()")

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Any, Any]:
        """Stores K and V [rows, hkv, q_length, d] of a layer. Returns what Octavo's attention takes."""
        step = self._step
        if step is None or layer_idx in self._stored:
            raise InvalidArgumentError(
                f"layer {layer_idx} has new keys outside a call of the cache's model: call the module "
                "that the cache was made for"
            )
        self._pages[self._masks[layer_idx]].store(layer_idx, key_states, value_states)
        self._stored.add(layer_idx)
        here = PagedLayer(self, layer_idx)
        return here, here

    def attend(
        self, layer: int, q: torch.Tensor, mask: Mask | torch.Tensor | None, **options: Any
    ) -> torch.Tensor:
        """The attention of queries [rows, hq, q_length, d] in a layer: [rows, q_length, hq, dv]."""
        pages, step = self._pages[self._masks[layer]], self._step
        if step is None:
            raise InvalidArgumentError(f"layer {layer} has queries outside a call of the cache's model")
        self._require_mask(pages.mask, mask)
        out = pages.attend(layer, q, **options)
        if len(self._stored) == len(self._masks) and layer == max(self._stored):
            self._finish()
        return out

    def _require_mask(self, own: str, mask: Mask | torch.Tensor | None) -> None:
        """What the model wants must be what the pages do: they let go what they think nobody sees."""
        if not isinstance(mask, Mask):
            raise UnsupportedError(
                "a mask that is neither causal, a sliding window nor chunks, or padding between tokens: "
                "pages cannot follow it"
            )
        if own not in mask.words:
            raise UnsupportedError(f"mask={mask.word}: the model's config says {own} for this layer")

    def _finish(self) -> None:
        for pages in self._pages.values():
            pages.finish()
        self._seen = self._next_seen
        self._step = None
        if self._started is not None and self._seen.shape[1] >= self._started[0].shape[1]:
            self._started = None

    def reset(self) -> None:
        """Ends the batch. Its full pages stay until their room is needed."""
        for pages in self._pages.values():
            pages.clear()
        self._seen = np.empty((0, 0), bool)
        self._started = self._step = None

    def crop(self, tokens_to_remove: int) -> None:
        """Takes back the last columns, as many as the negative number says. Layers with a window or
        chunks refuse to go back so far that the next token would see what they have let go."""
        columns = self._seen.shape[1]
        if not -columns <= tokens_to_remove <= 0:
            raise InvalidArgumentError(
                f"tokens_to_remove={tokens_to_remove}: must be from {-columns} to 0"
            )
        self._abandon()
        seen = self._seen[:, : columns + tokens_to_remove]
        shorter: list[tuple[Pages, list[int]]] = []
        try:
            for pages in self._pages.values():
                shorter.append((pages, pages.truncated(seen.sum(axis=1).tolist())))
        except Exception:
            for pages, requests in shorter:
                pages.free(requests)
            raise
        for pages, requests in shorter:
            pages.replace(requests)
        self._seen = seen

    def _abandon(self) -> None:
        """Forgets a step that did not get to its end."""
        if self._step is not None:
            self._truncate()
            self._step = None

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Goes on with the requests of these rows, as often as they are named; these share pages."""
        rows = _host(beam_idx).tolist()
        self._abandon()
        for pages in self._pages.values():
            pages.select(rows)
        self._seen = self._seen[rows]

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        rows = np.arange(len(self._seen))[_host(indices)]
        self.reorder_cache(torch.from_numpy(rows))

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.reorder_cache(torch.arange(len(self._seen)).repeat_interleave(repeats))

    def statistics(self) -> dict[str, CacheStatistics]:
        """How the pages stand, for each mask that the model's layers have."""
        return {mask: pages.statistics() for mask, pages in self._pages.items()}

    def __len__(self) -> int:
        return len(self._masks)

    def __repr__(self) -> str:
        rows, columns = self._seen.shape
        return f"PagedCache(layers={len(self)}, rows={rows}, columns={columns})"

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """The columns of the batch that the cache has, padding and all."""
        return self._seen.shape[1]

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return self._seen.shape[1] + query_length, 0

    def get_max_length(self, layer_idx: int | None = None) -> int:
        return -1

    @property
    def batch_size(self) -> int:
        return len(self._seen)

    @property
    def is_sliding(self) -> list[bool]:
        return [mask != "causal" for mask in self._masks]

    @property
    def is_compileable(self) -> bool:
        return False

    @property
    def is_croppable(self) -> bool:
        return True

    @property
    def is_initialized(self) -> bool:
        return True


def _masks(config: Any) -> list[str]:
    """What each layer's queries see."""
    window = getattr(config, "sliding_window", None)
    chunk = getattr(config, "attention_chunk_size", None)
    words = {"full_attention": "causal"}
    if window is not None:
        words["sliding_attention"] = f"window:{window - 1},0"
    if chunk is not None:
        words["chunked_attention"] = f"chunked:{chunk}"
    types = getattr(config, "layer_types", None)
    if types is None:
        types = [[*words][-1 if window is None else 1]] * config.num_hidden_layers
    for kind in types:
        if kind not in words:
            raise UnsupportedError(f"layer_types has {kind!r}: must be one of {', '.join(words)}")
    return [words[kind] for kind in types]


def _require_octavo(model: PreTrainedModel) -> None:
    attention = model.config.get_text_config(decoder=True)._attn_implementation
    if attention != "octavo":
        raise InvalidArgumentError(
            f'attn_implementation="{attention}": pages need "octavo"; see model.set_attn_implementation'
        )


def _watch(model: PreTrainedModel, cache: PagedCache) -> None:
    """Tells the cache of calls of the model, before they compute: `update` is told neither the tokens
    nor the padding."""
    known = weakref.ref(cache)  # the model may outlive it
    signature = inspect.signature(model.forward)

    def before(module: PreTrainedModel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = signature.bind_partial(*args, **kwargs).arguments
        cache = known()
        if cache is None or given.get("past_key_values") is not cache:
            return
        _require_octavo(module)
        ids, embeds = given.get("input_ids"), given.get("inputs_embeds")
        rows, count = (ids if ids is not None else embeds).shape[:2]
        cache._begin(None if ids is None else _host(ids), given.get("attention_mask"), count, rows)

    handle = model.register_forward_pre_hook(before, with_kwargs=True)
    weakref.finalize(cache, handle.remove)


def _host(array: Any) -> np.ndarray:
    return array.cpu().numpy() if isinstance(array, torch.Tensor) else np.asarray(array)
