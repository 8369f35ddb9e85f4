"""FlashInfer's paged KV caches: pools in one tensor or two, and pages listed request after request."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._checks import refuse, require_integers, require_same_device, require_sums, require_tensor


def order_of(kv_layout: Any) -> str:
    if kv_layout not in ("NHD", "HND"):
        refuse(f"kv_layout={kv_layout!r}: must be NHD or HND")
    return kv_layout.lower()


def pools_of(cache: Any, order: str) -> tuple[Tensor, Tensor]:
    """K's and V's [pages, page, hkv, d], or with hnd [pages, hkv, page, d]; without the dimension of
    `page`, pages of one token."""
    if isinstance(cache, (tuple, list)):
        if len(cache) != 2:
            refuse(f"paged_kv_cache is {len(cache)} items: must be one tensor or (k_cache, v_cache)")
        k, v = cache
    else:
        if not isinstance(cache, Tensor) or cache.ndim not in (4, 5) or cache.shape[1] != 2:
            given = tuple(cache.shape) if isinstance(cache, Tensor) else type(cache).__name__
            refuse(f"paged_kv_cache is {given}: must be [pages, 2, ...] or (k_cache, v_cache)")
        k, v = cache.unbind(1)
    axis = -3 if order == "nhd" else -2
    k, v = (x.unsqueeze(axis) if isinstance(x, Tensor) and x.ndim == 3 else x for x in (k, v))
    return require_tensor("k_cache", k, 4), require_tensor("v_cache", v, 4)


def kv_lens_of(indptr: Tensor, last_page_len: Tensor, page: int) -> Tensor:
    """Tokens of each request, int32; none without pages."""
    counts = indptr[1:] - indptr[:-1]
    tokens = (counts - 1) * page + last_page_len.to(counts.device)
    return torch.where(counts > 0, tokens, 0).to(torch.int32)


def check_pages(indptr: Tensor, indices: Tensor, last_page_len: Tensor, page: int) -> None:
    """Of a plan, in host memory."""
    require_sums("paged_kv_indptr", indptr)
    if indices.shape[0] < int(indptr[-1]):
        refuse(f"paged_kv_indptr[-1]={int(indptr[-1])}: paged_kv_indices has {indices.shape[0]} entries")
    counts = (indptr[1:] - indptr[:-1]).tolist()
    for r, (count, last) in enumerate(zip(counts, last_page_len.tolist())):
        if count > 0 and not 1 <= last <= page:
            refuse(f"paged_kv_last_page_len[{r}]={last}: must be from 1 to page_size={page}")


def table_of(indptr: Tensor, indices: Tensor) -> Tensor:
    """int32 [requests, columns] on the device of `indices`; `indptr` is in host memory."""
    counts = indptr[1:] - indptr[:-1]
    columns = torch.arange(max(1, int(counts.max()) if len(counts) else 1))
    at = indptr[:-1, None] + columns
    if len(indices) == 0:
        return torch.zeros(at.shape, dtype=torch.int32, device=indices.device)
    at = torch.where(columns < counts[:, None], at, 0).to(indices.device)
    return indices[at.long()].to(torch.int32)


def append_paged_kv_cache(
    append_key: Tensor,
    append_value: Tensor,
    batch_indices: Tensor,
    positions: Tensor,
    paged_kv_cache: Tensor | tuple[Tensor, Tensor],
    kv_indices: Tensor,
    kv_indptr: Tensor,
    kv_last_page_len: Tensor,
    kv_layout: str = "NHD",
) -> None:
    """Writes keys and values [tokens, hkv, d] into their pages: token t becomes token positions[t] of
    request batch_indices[t]. Tokens of request -1 are padding and not written.

    kv_indptr, kv_indices and kv_last_page_len already count the new tokens.

    Raises InvalidArgumentError before anything is written; on a GPU, positions and page ids are not
    checked.
    """
    order = order_of(kv_layout)
    k, v = pools_of(paged_kv_cache, order)
    keys = require_tensor("append_key", append_key, 3)
    values = require_tensor("append_value", append_value, 3)
    tokens, page = keys.shape[0], k.shape[1 if order == "nhd" else 2]
    heads = k.shape[2 if order == "nhd" else 1]
    for name, given, pool in (("append_key", keys, k), ("append_value", values, v)):
        wanted = (tokens, heads, pool.shape[3])
        if given.dtype != pool.dtype:
            refuse(f"{name} is {given.dtype}: the cache is {pool.dtype}")
        if tuple(given.shape) != wanted:
            refuse(f"{name} has shape {tuple(given.shape)}: must be {wanted}")
    requests = require_tensor("kv_last_page_len", kv_last_page_len, 1).shape[0]
    given = {
        "batch_indices": require_integers("batch_indices", batch_indices, tokens),
        "positions": require_integers("positions", positions, tokens),
        "kv_indptr": require_integers("kv_indptr", kv_indptr, requests + 1),
        "kv_indices": require_tensor("kv_indices", kv_indices, 1),
        "kv_last_page_len": kv_last_page_len,
    }
    require_same_device(k_cache=k, append_key=keys, append_value=values, v_cache=v, **given)
    if tokens == 0:
        return
    request, position = batch_indices.long(), positions.long()
    if k.device.type == "cpu":
        check_pages(kv_indptr, kv_indices, kv_last_page_len, page)
        lens = kv_lens_of(kv_indptr, kv_last_page_len, page).tolist()
        _check_places(request.tolist(), position.tolist(), lens)
    if len(kv_indices) == 0:
        return  # all is padding
    written = request >= 0
    at = kv_indptr.long()[request.clamp(min=0)] + torch.div(position, page, rounding_mode="floor")
    pages = kv_indices.long()[torch.where(written, at, 0)]
    slots = torch.where(written, position % page, 0)
    if k.device.type == "cpu":
        for pool in (k, v):
            for bad in pages[written & ((pages < 0) | (pages >= pool.shape[0]))].tolist():
                refuse(f"kv_indices names page {bad}: the pool has {pool.shape[0]} pages")
    # Padding repeats the first token that is written, so that nothing depends on how many there are.
    first = written.to(torch.uint8).argmax()
    source = torch.where(written, torch.arange(tokens, device=k.device), first)
    pages, slots = pages[source], slots[source]
    for pool, new in ((k, keys), (v, values)):
        tokens_of = pool if order == "nhd" else pool.transpose(1, 2)
        bits = torch.uint8 if pool.element_size() == 1 else pool.dtype
        tokens_of, new = tokens_of.view(bits), new[source].view(bits)
        tokens_of[pages, slots] = torch.where(written.any(), new, tokens_of[pages, slots])


def _check_places(requests: list[int], positions: list[int], lens: list[int]) -> None:
    for t, (request, position) in enumerate(zip(requests, positions)):
        if not -1 <= request < len(lens):
            refuse(f"batch_indices[{t}]={request}: there are {len(lens)} requests")
        if request >= 0 and not 0 <= position < lens[request]:
            refuse(f"positions[{t}]={position}: request {request} has room for {lens[request]} tokens")


def get_seq_lens(kv_indptr: Tensor, kv_last_page_len: Tensor, page_size: int) -> Tensor:
    """Tokens of each request, int32 [requests]."""
    return kv_lens_of(kv_indptr, kv_last_page_len, page_size)


def get_batch_indices_positions(
    append_indptr: Tensor,
    seq_lens: Tensor,
    nnz: int,
    batch_indices: Tensor | None = None,
    positions: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """For each of `nnz` new tokens its request and its position, int32 [nnz]: the new tokens are each
    request's last. Tokens past append_indptr[-1] are padding, of request -1. `batch_indices` and
    `positions` are where to write them, or they are made."""
    for name, given in (("batch_indices", batch_indices), ("positions", positions)):
        if given is not None and (given.dtype != torch.int32 or tuple(given.shape) != (nnz,)):
            refuse(f"{name} is {given.dtype} {tuple(given.shape)}: must be torch.int32 {(nnz,)}")
    require_same_device(
        append_indptr=append_indptr, seq_lens=seq_lens, batch_indices=batch_indices, positions=positions,
    )  # fmt: skip
    token = torch.arange(nnz, dtype=append_indptr.dtype, device=append_indptr.device)
    request = torch.searchsorted(append_indptr[1:].contiguous(), token, right=True)
    known = request < seq_lens.shape[0]
    of = request.clamp(max=seq_lens.shape[0] - 1)
    position = seq_lens[of] - append_indptr[1:][of] + token
    found = torch.where(known, request, -1).int(), torch.where(known, position, 0).int()
    places = (batch_indices, positions)
    of_request, at = (x if out is None else out.copy_(x) for x, out in zip(found, places))
    return of_request, at
