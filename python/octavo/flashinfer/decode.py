"""FlashInfer's decode: the newest query tokens of each request, usually one."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from .._arrays import repeated
from .._errors import UnsupportedError
from ._call import Settings, call, require_no_extras
from ._checks import refuse, require_integer, require_integers, require_tensor
from ._pages import check_pages, kv_lens_of, order_of, table_of
from ._wrapper import Wrapper, require_agreement

__all__ = ["BatchDecodeWithPagedKVCacheWrapper", "single_decode_with_kv_cache"]

# plan's options in the order in which FlashInfer still takes them by position.
_PLAN_OPTIONS = (
    "pos_encoding_mode", "window_left", "logits_soft_cap", "q_data_type", "kv_data_type", "o_data_type",
    "data_type", "sm_scale", "rope_scale", "rope_theta", "non_blocking", "block_tables", "seq_lens",
    "fixed_split_size", "disable_split_kv", "q_len_per_req",
)  # fmt: skip


def single_decode_with_kv_cache(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kv_layout: str = "NHD",
    pos_encoding_mode: str = "NONE",
    use_tensor_cores: bool = False,
    q_scale: float | None = None,
    k_scale: float | None = None,
    v_scale: float | None = None,
    window_left: int = -1,
    logits_soft_cap: float | None = None,
    sm_scale: float | None = None,
    rope_scale: float | None = None,
    rope_theta: float | None = None,
    return_lse: bool = False,
) -> Any:
    """Attention of one query token: q [hq, d]; k, v [kv_len, hkv, d], or with HND [hkv, kv_len, d].

    Returns out [hq, dv] in q's dtype, or (out, LSE [hq] of base 2). use_tensor_cores has no effect.
    """
    settings = Settings.checked(True, pos_encoding_mode, window_left, logits_soft_cap, sm_scale)
    q = require_tensor("q", q, 2)
    k, v = (require_tensor(name, x, 3) for name, x in (("k", k), ("v", v)))
    if order_of(kv_layout) == "hnd":
        k, v = k.transpose(0, 1), v.transpose(0, 1)
    results = call(
        settings, q[None], k, v, q_lens=repeated(1, 1, q), kv_lens=repeated(k.shape[0], 1, q),
        scales={"q_scale": q_scale, "k_scale": k_scale, "v_scale": v_scale}, out_dtype=q.dtype,
        return_lse=return_lse,
    )  # fmt: skip
    return (results[0][0], results[1][0]) if return_lse else results[0]


class BatchDecodeWithPagedKVCacheWrapper(Wrapper):
    """Decode over paged keys and values."""

    def __init__(
        self,
        float_workspace_buffer: Tensor,
        kv_layout: str = "NHD",
        use_cuda_graph: bool = False,
        use_tensor_cores: bool = False,
        paged_kv_indptr_buffer: Tensor | None = None,
        paged_kv_indices_buffer: Tensor | None = None,
        paged_kv_last_page_len_buffer: Tensor | None = None,
        backend: str = "auto",
        jit_args: list[Any] | None = None,
    ) -> None:
        """`float_workspace_buffer` says on which device; it and the other buffers are not written."""
        require_no_extras((), jit_args=jit_args)
        super().__init__(float_workspace_buffer, kv_layout, use_cuda_graph)

    def plan(
        self,
        indptr: Tensor,
        indices: Tensor,
        last_page_len: Tensor,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim: int,
        page_size: int,
        *options: Any,
        **named: Any,
    ) -> None:
        """indptr [requests + 1]; indices [pages]; last_page_len [requests]. Options, by name or in
        FlashInfer's order: those of `_plan`."""
        if len(options) > len(_PLAN_OPTIONS):
            raise TypeError(f"plan has {len(_PLAN_OPTIONS)} options, {len(options)} are given")
        by_position = dict(zip(_PLAN_OPTIONS, options))
        for name in by_position.keys() & named.keys():
            raise TypeError(f"plan got multiple values for argument {name!r}")
        self._plan(
            indptr, indices, last_page_len, num_qo_heads, num_kv_heads, head_dim, page_size,
            **by_position, **named,
        )  # fmt: skip

    begin_forward = plan

    def _plan(
        self,
        indptr: Tensor,
        indices: Tensor,
        last_page_len: Tensor,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim: int,
        page_size: int,
        *,
        pos_encoding_mode: str = "NONE",
        window_left: int = -1,
        window_right: int = 0,
        logits_soft_cap: float | None = None,
        q_data_type: str | torch.dtype | None = "float16",
        kv_data_type: str | torch.dtype | None = None,
        o_data_type: str | torch.dtype | None = None,
        data_type: str | torch.dtype | None = None,
        sm_scale: float | None = None,
        rope_scale: float | None = None,
        rope_theta: float | None = None,
        non_blocking: bool = True,
        block_tables: Tensor | None = None,
        seq_lens: Tensor | None = None,
        fixed_split_size: int | None = None,
        disable_split_kv: bool = False,
        q_len_per_req: int = 1,
        is_causal: bool | None = None,
    ) -> None:
        """`data_type` stands for q's and the cache's where those are None. seq_lens must agree with the
        rest. block_tables says it again, non_blocking, fixed_split_size and disable_split_kv steer
        FlashInfer's kernels: they have no effect."""
        requests = require_tensor("last_page_len", last_page_len, 1).shape[0]
        sums = require_integers("indptr", indptr, requests + 1).cpu()
        last = last_page_len.cpu()
        page = require_integer("page_size", page_size, 1)
        q_len = require_integer("q_len_per_req", q_len_per_req, 1)
        require_tensor("indices", indices, 1)
        if window_right not in (0, -1) or (window_right == -1 and q_len > 1):
            raise UnsupportedError(f"window_right={window_right}: queries of a decode see no later key")
        if is_causal is not None and is_causal != (q_len > 1):
            raise UnsupportedError(
                f"is_causal={is_causal}: with q_len_per_req={q_len} it is {q_len > 1}"
            )
        check_pages(sums, indices, last, page)
        if data_type is not None:
            q_data_type = data_type if q_data_type is None else q_data_type
            kv_data_type = data_type if kv_data_type is None else kv_data_type
        kv_lens = kv_lens_of(sums, last, page)
        require_agreement(kv_lens, seq_lens=seq_lens)
        self._plan_batch(
            Settings.checked(True, pos_encoding_mode, window_left, logits_soft_cap, sm_scale),
            torch.full((requests,), q_len), kv_lens, page=page, page_table=table_of(sums, indices),
            heads=(num_qo_heads, num_kv_heads), dims=(head_dim, None),
            dtypes=(q_data_type, kv_data_type, o_data_type),
        )  # fmt: skip
        self._q_len = q_len

    def _set(self, mode: str, left: int, cap: Any, scale: Any) -> None:
        self._settings = Settings.checked(True, mode, left, cap, scale)

    def run(
        self,
        q: Tensor,
        paged_kv_cache: Tensor | tuple[Tensor, Tensor],
        *args: Any,
        q_scale: float | Tensor | None = None,
        k_scale: float | Tensor | None = None,
        v_scale: float | Tensor | None = None,
        out: Tensor | None = None,
        lse: Tensor | None = None,
        return_lse: bool = False,
        enable_pdl: bool | None = None,
        window_left: int | None = None,
        sinks: Tensor | None = None,
        q_len_per_req: int | None = None,
        skip_softmax_threshold_scale_factor: float | None = None,
        kv_cache_sf: Any = None,
    ) -> Any:
        """q [requests * q_len_per_req, hq, d]; the cache as in the paged wrapper of prefill. Returns
        out, or (out, LSE of base 2). enable_pdl and the skip-softmax factor have no effect."""
        require_no_extras(args, kv_cache_sf=kv_cache_sf)
        k, v = self._pools(paged_kv_cache)
        if window_left not in (None, self._settings.window_left):
            refuse(f"window_left={window_left}: the plan says {self._settings.window_left}")
        if self._batch is not None and q_len_per_req not in (None, self._q_len):
            refuse(f"q_len_per_req={q_len_per_req}: the plan says {self._q_len}")
        return self._run(
            q, k, v, self._settings, order=self._order, sinks=sinks, out=out, lse=lse,
            scales={"q_scale": q_scale, "k_scale": k_scale, "v_scale": v_scale}, return_lse=return_lse,
        )  # fmt: skip

    run_return_lse = functools.partialmethod(run, return_lse=True)

    def forward(
        self,
        q: Tensor,
        paged_kv_cache: Tensor | tuple[Tensor, Tensor],
        pos_encoding_mode: str = "NONE",
        q_scale: float | None = None,
        k_scale: float | None = None,
        v_scale: float | None = None,
        window_left: int = -1,
        logits_soft_cap: float | None = None,
        sm_scale: float | None = None,
        rope_scale: float | None = None,
        rope_theta: float | None = None,
        return_lse: bool = False,
    ) -> Any:
        """`run`, with settings in the place of the plan's."""
        self._set(pos_encoding_mode, window_left, logits_soft_cap, sm_scale)
        scales = {"q_scale": q_scale, "k_scale": k_scale, "v_scale": v_scale}
        return self.run(q, paged_kv_cache, **scales, return_lse=return_lse)

    forward_return_lse = functools.partialmethod(forward, return_lse=True)
