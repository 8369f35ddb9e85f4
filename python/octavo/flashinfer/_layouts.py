"""The five input layouts of `trtllm_fmha_v2_prefill`, each as q, K, V and a page table."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._checks import refuse, require_same_device, require_tensor

LAYOUTS = (
    "PACKED_QKV",
    "CONTIGUOUS_Q_KV",
    "SEPARATE_Q_K_V",
    "Q_PAGED_KV_NHD",
    "Q_PAGED_KV_HND",
)


class Inputs(NamedTuple):
    q: Tensor
    """[total_q, hq, d]"""
    k: Tensor
    """[total_kv, hkv, d], or pages [pages, page, hkv, d], or [pages, hkv, page, d]"""
    v: Tensor
    order: str
    """of a page: nhd or hnd"""
    k_pages: Tensor | None = None
    """int32 [requests, columns]; None unless paged"""
    v_pages: Tensor | None = None
    """V's own pages, where they were given apart from K's"""

    @property
    def page(self) -> int:
        """Tokens in a page."""
        return self.k.shape[1 if self.order == "nhd" else 2]


def unpack(qkv: Any, layout: str, tables: Any, batch: int, out: Tensor | None) -> Inputs:
    if layout not in LAYOUTS:
        refuse(f"input_layout={layout!r}: must be one of {', '.join(LAYOUTS)}")
    if layout == "PACKED_QKV":
        return Inputs(*_packed(qkv, out), "nhd")
    count = 3 if layout == "SEPARATE_Q_K_V" else 2
    if not isinstance(qkv, (tuple, list)) or len(qkv) != count:
        given = f"{len(qkv)} items" if isinstance(qkv, (tuple, list)) else type(qkv).__name__
        refuse(f"qkv is {given}: {layout} wants a tuple of {count}")
    q = require_tensor("q", qkv[0], 3)
    if layout == "SEPARATE_Q_K_V":
        return Inputs(q, require_tensor("k", qkv[1], 3), require_tensor("v", qkv[2], 3), "nhd")
    if layout == "CONTIGUOUS_Q_KV":
        kv = require_tensor("kv", qkv[1], 4)
        if kv.shape[1] != 2:
            refuse(f"kv has shape {tuple(kv.shape)}: must be [tokens, 2, num_kv_heads, head_dim]")
        return Inputs(q, kv[:, 0], kv[:, 1], "nhd")
    return _paged(q, qkv[1], layout[-3:].lower(), tables, batch)


def _packed(qkv: Any, out: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """[tokens, 3, heads, d]; or with fewer heads of K and V than of q [tokens, hq + 2 hkv, d], where
    `out` says how many q has, or q, k and v as views of it."""
    if isinstance(qkv, (tuple, list)):
        if len(qkv) != 3:
            refuse(f"qkv is {len(qkv)} items: PACKED_QKV wants a tensor, or q, k and v as views of one")
        q, k, v = (require_tensor(name, x, 3) for name, x in zip("qkv", qkv))
        return q, k, v
    if isinstance(qkv, Tensor) and qkv.ndim == 3:
        heads = qkv.shape[1]
        if out is None:
            refuse(f"qkv has shape {tuple(qkv.shape)}: how many of its {heads} heads are q's, only out "
                   "can say; or give views (q, k, v)")  # fmt: skip
        hq = require_tensor("out", out, 3).shape[1]
        hkv = (heads - hq) // 2
        if hkv < 1 or hq + 2 * hkv != heads:
            refuse(f"qkv has {heads} heads and out {hq}: must be hq + 2 * hkv and hq")
        q, k, v = qkv.split((hq, hkv, hkv), dim=1)
        return q, k, v
    packed = require_tensor("qkv", qkv, 4)
    if packed.shape[1] != 3:
        refuse(f"qkv has shape {tuple(packed.shape)}: must be [tokens, 3, num_heads, head_dim]")
    q, k, v = packed.unbind(1)
    return q, k, v


def _paged(q: Tensor, pool: Any, order: str, tables: Any, batch: int) -> Inputs:
    apart = isinstance(pool, (tuple, list))
    tables = require_tensor("block_tables", tables, 3 if apart else 2)
    if tables.dtype != torch.int32:
        refuse(f"block_tables is {tables.dtype}: must be torch.int32")
    if tables.shape[0] != batch:
        refuse(f"block_tables has {tables.shape[0]} rows: batch_size is {batch}")
    if not apart:
        pool = require_tensor("paged_kv", pool, 5)
        if pool.shape[1] != 2:
            refuse(f"paged_kv has shape {tuple(pool.shape)}: must be [pages, 2, ...]")
        return Inputs(q, pool[:, 0], pool[:, 1], order, tables)
    if len(pool) != 2:
        refuse(f"paged_kv is {len(pool)} items: must be one tensor or (k_cache, v_cache)")
    if tables.shape[1] != 2:
        refuse(f"block_tables has shape {tuple(tables.shape)}: (k_cache, v_cache) wants "
               "[batch_size, 2, columns]")  # fmt: skip
    k, v = (require_tensor(name, x, 4) for name, x in zip(("k_cache", "v_cache"), pool))
    require_same_device(q=q, k_cache=k, v_cache=v)
    return Inputs(q, k, v, order, tables[:, 0], tables[:, 1] - _distance(k, v))


def _distance(k: Tensor, v: Tensor) -> int:
    """From K's first page to V's, in pages, in which the tables count."""
    if k.shape != v.shape or k.dtype != v.dtype:
        refuse(f"v_cache is {v.dtype} {tuple(v.shape)}: must be as k_cache, {k.dtype} {tuple(k.shape)}")
    for name, cache in (("k_cache", k), ("v_cache", v)):
        if not cache.is_contiguous():
            refuse(f"{name} has strides {cache.stride()}: must be contiguous")
    page = max(1, k[:1].numel()) * k.element_size()
    distance = v.data_ptr() - k.data_ptr()
    if distance % page:
        refuse(f"v_cache begins {distance} bytes after k_cache: must be a multiple of a page, {page} "
               "bytes, so in one allocation")  # fmt: skip
    return distance // page


def with_one_table(inputs: Inputs, kv_lens: Tensor) -> Inputs:
    """The same with one table for K and V. Octavo's kernels read one; pages are copied into its order
    where V's are in another, and on a GPU, where the host cannot look, always."""
    k, v, k_pages, v_pages = inputs.k, inputs.v, inputs.k_pages, inputs.v_pages
    if k_pages is None or v_pages is None:
        return inputs
    if k_pages.device.type == "cpu":
        columns = torch.arange(k_pages.shape[1])
        used = columns * inputs.page < kv_lens[:, None]
        if torch.equal(k_pages[used], v_pages[used]):
            return inputs._replace(v_pages=None)
        for name, ids in (("K", k_pages[used]), ("V", v_pages[used])):
            for page in ids[(ids < 0) | (ids >= k.shape[0])].tolist():
                refuse(f"block_tables names page {page} of {name}'s pool: it has {k.shape[0]} pages")
    last = k.shape[0] - 1
    table = torch.arange(k_pages.numel(), dtype=torch.int32, device=k.device)
    return inputs._replace(
        k=_pages_of(k, k_pages.clamp(0, last)),
        v=_pages_of(v, v_pages.clamp(0, last)),
        k_pages=table.reshape(k_pages.shape),
        v_pages=None,
    )


def _pages_of(pool: Tensor, pages: Tensor) -> Tensor:
    bits = pool.view(torch.uint8) if pool.element_size() == 1 else pool
    return bits.index_select(0, pages.reshape(-1)).view(pool.dtype)
