"""The plan of a wrapper, and what the three wrappers have in common."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from .._arrays import pack_bits
from .._errors import UnsupportedError
from ._call import Settings, call, mask_rows
from ._checks import as_dtype, refuse, require_integer, require_same_device
from ._pages import order_of, pools_of


@dataclasses.dataclass
class Batch:
    """A planned batch, on the wrapper's device."""

    q_lens: Tensor
    """int32 [requests]"""
    kv_lens: Tensor
    """int32 [requests]"""
    page_table: Tensor | None = None
    """int32 [requests, columns]"""
    mask_bits: Tensor | None = None
    """uint8 [total_q, bytes]"""


class Wrapper:
    """A batch and its settings, planned once and run for each layer.

    Octavo chooses a kernel from the problem alone and needs no buffers of the caller's: workspaces and
    `backend` have no effect. With use_cuda_graph, the first plan fixes how many requests, tokens and
    pages later ones may have; those are copied to where a captured graph reads them.
    """

    def __init__(self, workspace: Tensor, kv_layout: str, use_cuda_graph: bool) -> None:
        self._order = order_of(kv_layout)
        self._use_cuda_graph = use_cuda_graph
        self._batch: Batch | None = None
        self._settings = Settings()
        self.device = workspace.device

    @property
    def is_cuda_graph_enabled(self) -> bool:
        return self._use_cuda_graph

    def reset_workspace_buffer(self, *_: Tensor) -> None:
        """Does nothing: Octavo uses none of the caller's."""

    def _plan_batch(
        self,
        settings: Settings,
        q_lens: Tensor,
        kv_lens: Tensor,
        *,
        heads: tuple[int, int],
        dims: tuple[int, int | None],
        dtypes: tuple[Any, Any, Any],
        page: int = 0,
        page_table: Tensor | None = None,
        masks: tuple[Tensor | None, Tensor | None] = (None, None),
    ) -> None:
        """Plans a batch, or changes nothing and refuses. Lengths are in host memory; dtypes are q's, the
        cache's and the result's."""
        for name, value in (("num_qo_heads", heads[0]), ("num_kv_heads", heads[1]),
                            ("head_dim", dims[0])):  # fmt: skip
            require_integer(name, value, 1)
        if heads[0] % heads[1]:
            refuse(f"num_qo_heads={heads[0]}: must be a multiple of num_kv_heads={heads[1]}")
        q_dtype = as_dtype("q_data_type", dtypes[0])
        kv_dtype = q_dtype if dtypes[1] is None else as_dtype("kv_data_type", dtypes[1])
        out_dtype = q_dtype if dtypes[2] is None else as_dtype("o_data_type", dtypes[2])
        mask = mask_rows(*masks, q_lens, kv_lens, settings.window_left)
        new = Batch(
            q_lens.to(torch.int32),
            kv_lens.to(torch.int32),
            page_table,
            None if mask is None else pack_bits(mask),
        )
        self._keep(new, [int(lens.max()) if len(lens) else 0 for lens in (q_lens, kv_lens)])
        self._settings, self._mask_window = settings, settings.window_left
        self._heads, self._dims = heads, (dims[0], dims[1] or dims[0])
        self._q_dtype, self._kv_dtype, self._out_dtype = q_dtype, kv_dtype, out_dtype
        self._rows, self._page = int(q_lens.sum()), page

    def _keep(self, new: Batch, longest: list[int]) -> None:
        """On the device; for CUDA graphs, where the first plan's batch is."""
        kept = self._batch
        if not self._use_cuda_graph or kept is None:
            tensors = {name: x if x is None else x.to(self.device) for name, x in vars(new).items()}
            self._batch, self._longest = Batch(**tensors), longest
            return
        for name, length, bound in zip(("q_len", "kv_len"), longest, self._longest):
            if length > bound:
                refuse(f"{name}={length}: the first plan for CUDA graphs had {bound}")
        _require_room(kept, new)
        for name, tensor in vars(new).items():
            if tensor is not None:
                place = getattr(kept, name).zero_()
                place[tuple(slice(size) for size in tensor.shape)] = tensor.to(self.device)

    def _pools(self, cache: Any) -> tuple[Tensor, Tensor]:
        k, v = pools_of(cache, self._order)
        page = k.shape[1 if self._order == "nhd" else 2]
        if self._batch is not None and page != self._page:
            refuse(f"paged_kv_cache has pages of {page} tokens: the plan says {self._page}")
        return k, v

    def _run(self, q: Tensor, k: Tensor, v: Tensor, settings: Settings, **options: Any) -> Any:
        """q [total_q, hq, d]; k and v as octavo.attention takes them."""
        batch = self._batch
        if batch is None:
            refuse("run before plan")
        if batch.mask_bits is not None and settings.window_left != self._mask_window:
            raise UnsupportedError(
                f"window_left={settings.window_left} with a custom mask: the plan, which made one mask "
                f"of both, says {self._mask_window}"
            )
        for name, tensor, dtype in (("q", q, self._q_dtype), ("k", k, self._kv_dtype),
                                    ("v", v, self._kv_dtype)):  # fmt: skip
            if tensor.dtype != dtype:
                refuse(f"{name} is {tensor.dtype}: the plan says {dtype}")
        shape = (self._rows, self._heads[0], self._dims[0])
        if tuple(q.shape) != shape:
            refuse(f"q has shape {tuple(q.shape)}: the plan says {shape}")
        heads = k.shape[1] if k.ndim == 3 or self._order == "hnd" else k.shape[2]
        if (heads, k.shape[-1], v.shape[-1]) != (self._heads[1], *self._dims):
            refuse(f"k and v have {heads} heads of {k.shape[-1]} and {v.shape[-1]}: the plan says "
                   f"{self._heads[1]} of {self._dims[0]} and {self._dims[1]}")  # fmt: skip
        require_same_device(q=q, **{"the plan": batch.q_lens})
        return call(
            settings, q, k, v, q_lens=batch.q_lens, kv_lens=batch.kv_lens, mask_bits=batch.mask_bits,
            page_table=batch.page_table, out_dtype=self._out_dtype, max_q_len=self._longest[0],
            max_kv_len=self._longest[1], **options,
        )  # fmt: skip


def _require_room(kept: Batch, new: Batch) -> None:
    for name, tensor in vars(new).items():
        old = getattr(kept, name)
        if (old is None) != (tensor is None):
            refuse(f"{name} is {'given' if old is None else 'missing'}: the first plan for CUDA graphs "
                   "was otherwise")  # fmt: skip
        if tensor is not None and any(a > b for a, b in zip(tensor.shape, old.shape)):
            refuse(f"{name} has shape {tuple(tensor.shape)}: the first plan for CUDA graphs had "
                   f"{tuple(old.shape)}")  # fmt: skip


def require_agreement(planned: Tensor, **said_again: Tensor | None) -> None:
    """Lengths that a plan is given twice; in host memory `planned`."""
    for name, given in said_again.items():
        if given is not None and given.reshape(-1).tolist() != planned.tolist():
            refuse(f"{name}={given.reshape(-1).tolist()}: the other arguments say {planned.tolist()}")
