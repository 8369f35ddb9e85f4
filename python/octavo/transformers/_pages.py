"""The pages of the layers that see alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .._attention import attention
from .._errors import CacheFullError
from .._kv_cache import KVCache
from .._kv_cache import store as store_on_cpu


@dataclasses.dataclass(frozen=True)
class Step:
    """The tokens of one forward pass of the model. Its rows are those of all requests in turn, padding
    left out."""

    rows: np.ndarray  # int64: where they are among the batch's [requests * q_length]
    q_lens: np.ndarray  # int32 [requests]
    q_length: int
    columns: int  # of the batch, before it


@dataclasses.dataclass(frozen=True)
class _Tables:
    """What a step takes of the pages, on one device."""

    rows: torch.Tensor | None  # None: all of the batch's
    slots: torch.Tensor  # of each row: page * page_size + its place there
    q_lens: torch.Tensor
    kv_lens: torch.Tensor
    page_table: torch.Tensor
    max_q_len: int
    max_kv_len: int


class Pages:
    """Keys and values of the layers of one mask, on the devices where these layers compute.

    An octavo.KVCache says which page belongs to whom. What layers store, on which devices, is not known
    before they do, so the cache is given four bytes of host memory for each token, and what it would
    store is stored here.
    """

    def __init__(self, mask: str, pages: int, page_size: int, dtype: torch.dtype | None) -> None:
        self.mask = mask
        self.page_size = page_size
        self._pages = pages
        self._dtype = dtype
        self._books = KVCache(pages=pages, page_size=page_size, hkv=1, d=1, dtype="f16", mask=mask)
        self._pools: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # K and V of a layer
        self.requests: list[int] = []
        self._page_table = np.empty((0, 0), np.int32)
        self._kv_lens = np.empty(0, np.int32)
        self._on_device: dict[torch.device, _Tables] = {}

    def statistics(self) -> Any:
        return self._books.statistics()

    def admit(self, prompts: Sequence[np.ndarray], salt: str | bytes) -> list[int]:
        """New requests, where there are none. Returns the leading tokens found of each."""
        found = []
        for prompt in prompts:
            admission = self._books.admit(prompt, salt=salt, tokens=0)
            self.requests.append(admission.request)
            found.append(admission.cached)
        return found

    def clear(self) -> None:
        self.replace([])

    def replace(self, requests: list[int]) -> None:
        """Goes on with these."""
        self.free(self.requests)
        self.requests = requests

    def free(self, requests: Sequence[int]) -> None:
        for request in requests:
            self._books.free(request)

    def truncate(self, lengths: Sequence[int]) -> None:
        for request, length in zip(self.requests, lengths, strict=True):
            self._books.truncate(request, length)

    def truncated(self, lengths: Sequence[int]) -> list[int]:
        """Forks of the requests that are shorter. Refuses lengths whose next query would see tokens that
        are gone."""
        forks: list[int] = []
        try:
            for request, length in zip(self.requests, lengths, strict=True):
                forks.append(self._books.fork(request))
                self._books.truncate(forks[-1], length)
        except Exception:
            self.free(forks)
            raise
        return forks

    def select(self, rows: Sequence[int]) -> None:
        """The requests of these rows, as often as they are named."""
        self.replace([self._books.fork(self.requests[row]) for row in rows])

    def reserve(self, tokens: Sequence[np.ndarray | int]) -> None:
        """Room for each request's next tokens, by their ids or how many. All or none of them."""
        before = [self._books.length(request) for request in self.requests]
        held, _ = self._books.tables(self.requests)
        row = 0
        try:
            for row, (request, new) in enumerate(zip(self.requests, tokens, strict=True)):
                self._books.reserve(request, new)
        except Exception as error:
            self.truncate(before)
            self._copy_pages(held, before)  # what got another page keeps it
            if isinstance(error, CacheFullError):
                later = zip(before[row + 1 :], tokens[row + 1 :])
                raise CacheFullError(error.missing + sum(self._added(*x) for x in later)) from None
            raise
        self._copy_pages(held, before)

    def _added(self, length: int, tokens: np.ndarray | int) -> int:
        """Pages that a request of this length gets for more tokens."""
        count = tokens if isinstance(tokens, int) else len(tokens)
        return -(-(length + count) // self.page_size) - -(-length // self.page_size)

    def _copy_pages(self, held: np.ndarray, lengths: Sequence[int]) -> None:
        """Where a request got another last page because it shared the one that it goes on in."""
        self._page_table, self._kv_lens = self._books.tables(self.requests)
        pairs = []
        for row, length in enumerate(lengths):
            column, used = divmod(length, self.page_size)
            if used and held[row, column] != self._page_table[row, column]:
                pairs.append((held[row, column], self._page_table[row, column]))
        if not pairs:
            return
        for pools in self._pools.values():
            for pool in pools:
                source, target = torch.tensor(np.array(pairs), device=pool.device).long().T
                pool[target] = pool[source]

    def begin(self, step: Step) -> None:
        """A step whose tokens are reserved."""
        self._step = step
        self._on_device = {}

    def _tables(self, device: torch.device) -> _Tables:
        if device not in self._on_device:
            step, kv_lens = self._step, self._kv_lens
            request = np.repeat(np.arange(len(step.q_lens)), step.q_lens)
            first_rows = np.cumsum(step.q_lens) - step.q_lens
            before = kv_lens - step.q_lens  # tokens of each request
            position = np.arange(len(request)) + np.repeat(before - first_rows, step.q_lens)
            page = self._page_table[request, position // self.page_size].astype(np.int64)
            every_row = len(step.rows) == len(step.q_lens) * step.q_length

            def here(array: np.ndarray) -> torch.Tensor:
                return torch.from_numpy(array).to(device)

            self._on_device[device] = _Tables(
                rows=None if every_row else here(step.rows),
                slots=here(page * self.page_size + position % self.page_size),
                q_lens=here(step.q_lens),
                kv_lens=here(kv_lens),
                page_table=here(self._page_table),
                max_q_len=int(step.q_lens.max(initial=0)),
                max_kv_len=int(kv_lens.max(initial=0)),
            )
        return self._on_device[device]

    def store(self, layer: int, k: torch.Tensor, v: torch.Tensor) -> None:
        """K and V [requests, hkv, q_length, d] of the step's tokens."""
        tables = self._tables(k.device)
        if layer not in self._pools:
            self._pools[layer] = self._pool(k), self._pool(v)
        k, v = (_rows(new.detach(), tables.rows) for new in (k, v))
        if k.device.type == "cpu":
            store_on_cpu(k, v, *self._pools[layer], tables.slots)
            return
        for pool, new in zip(self._pools[layer], (k, v)):
            pool.view(-1, *pool.shape[2:]).index_copy_(0, tables.slots, new.to(pool.dtype))

    def _pool(self, like: torch.Tensor) -> torch.Tensor:
        shape = (self._pages, self.page_size, like.shape[1], like.shape[3])
        return torch.empty(shape, dtype=self._dtype or like.dtype, device=like.device)

    def attend(self, layer: int, q: torch.Tensor, **options: Any) -> torch.Tensor:
        """What the step's queries [requests, hq, q_length, d] see: [requests, q_length, hq, dv], 0 where
        there is padding."""
        tables = self._tables(q.device)
        k, v = self._pools[layer]
        rows = attention(
            _rows(q, tables.rows),
            k,
            v,
            page_table=tables.page_table,
            q_lens=tables.q_lens,
            kv_lens=tables.kv_lens,
            max_q_len=tables.max_q_len,
            max_kv_len=tables.max_kv_len,
            mask=self.mask,
            **options,
        )
        requests, _, q_length, _ = q.shape
        if tables.rows is not None:
            padded = rows.new_zeros((requests * q_length, *rows.shape[1:]))
            rows = padded.index_copy_(0, tables.rows, rows)
        return rows.view(requests, q_length, *rows.shape[1:])

    def finish(self) -> None:
        """The step's tokens are stored in all layers: others may find them."""
        for request, length in zip(self.requests, self._kv_lens.tolist(), strict=True):
            self._books.mark_written(request, length)


def _rows(x: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
    """[requests, heads, q_length, d] as [rows, heads, d]."""
    flat = x.transpose(1, 2).reshape(-1, x.shape[1], x.shape[3])
    return flat if rows is None else flat[rows]
