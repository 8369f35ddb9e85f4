"""FlashInfer's prefill: several query tokens a request."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .._arrays import pack_bits, repeated
from .._errors import UnsupportedError
from ._call import Settings, call, head_scales, mask_rows, require_no_extras
from ._checks import as_dtype, refuse, require_integer, require_integers, require_sums, require_tensor
from ._fmha import trtllm_fmha_v2_prefill
from ._pages import check_pages, kv_lens_of, order_of, table_of
from ._wrapper import Wrapper, require_agreement

__all__ = [
    "BatchPrefillWithPagedKVCacheWrapper",
    "BatchPrefillWithRaggedKVCacheWrapper",
    "single_prefill_with_kv_cache",
    "single_prefill_with_kv_cache_return_lse",
    "trtllm_fmha_v2_prefill",
]


def single_prefill_with_kv_cache(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale_q: Tensor | None = None,
    scale_k: Tensor | None = None,
    scale_v: Tensor | None = None,
    o_dtype: torch.dtype | None = None,
    custom_mask: Tensor | None = None,
    packed_custom_mask: Tensor | None = None,
    causal: bool = False,
    kv_layout: str = "NHD",
    pos_encoding_mode: str = "NONE",
    use_fp16_qk_reduction: bool = False,
    sm_scale: float | None = None,
    window_left: int = -1,
    logits_soft_cap: float | None = None,
    rope_scale: float | None = None,
    rope_theta: float | None = None,
    backend: str = "auto",
    return_lse: bool = False,
    kv_cache_sf: Any = None,
    k_scale: float | Tensor | None = None,
    v_scale: float | Tensor | None = None,
) -> Any:
    """Attention of one request: q [q_len, hq, d]; k, v [kv_len, hkv, d], or with HND [hkv, kv_len, d].

    Returns out [q_len, hq, dv] in o_dtype (default q's), or (out, LSE [q_len, hq] of base 2).
    use_fp16_qk_reduction and backend have no effect.
    """
    require_no_extras((), kv_cache_sf=kv_cache_sf)
    settings = Settings.checked(causal, pos_encoding_mode, window_left, logits_soft_cap, sm_scale)
    q, k, v = (require_tensor(name, x, 3) for name, x in (("q", q), ("k", k), ("v", v)))
    if order_of(kv_layout) == "hnd":
        k, v = k.transpose(0, 1), v.transpose(0, 1)
    scales = head_scales(q.shape[1], k.shape[1], (scale_q, scale_k, scale_v))
    scales["k_scale"] = _product(scales["k_scale"], k_scale)
    scales["v_scale"] = _product(scales["v_scale"], v_scale)
    lens = [torch.tensor([x.shape[0]]) for x in (q, k)]
    mask = mask_rows(custom_mask, packed_custom_mask, *lens, window_left)
    return call(
        settings, q, k, v, q_lens=repeated(q.shape[0], 1, q), kv_lens=repeated(k.shape[0], 1, q),
        scales=scales, mask_bits=None if mask is None else pack_bits(mask), return_lse=return_lse,
        out_dtype=q.dtype if o_dtype is None else as_dtype("o_dtype", o_dtype),
    )  # fmt: skip


single_prefill_with_kv_cache_return_lse = functools.partial(
    single_prefill_with_kv_cache, return_lse=True
)


def _product(a: Any, b: Any) -> Any:
    return b if a is None else a if b is None else a * b


class _Prefill(Wrapper):
    """What the two wrappers of prefill have in common."""

    def _set(self, causal: bool, mode: str, left: int, cap: Any, scale: Any) -> None:
        self._settings = Settings.checked(causal, mode, left, cap, scale)

    def _scales(self, q: Tensor, args: tuple[Any, ...], given: dict[str, Any]) -> dict[str, Any]:
        """Those given by name, and FlashInfer's three of fp8 that come as further arguments."""
        if q.element_size() > 1 or len(args) != 3:
            require_no_extras(args)
            return given
        by_head = head_scales(*self._heads, args)
        return given | {name: _product(by_head[name], given[name]) for name in by_head}


class BatchPrefillWithPagedKVCacheWrapper(_Prefill):
    """Prefill over paged keys and values."""

    def __init__(
        self,
        float_workspace_buffer: Tensor,
        kv_layout: str = "NHD",
        use_cuda_graph: bool = False,
        qo_indptr_buf: Tensor | None = None,
        paged_kv_indptr_buf: Tensor | None = None,
        paged_kv_indices_buf: Tensor | None = None,
        paged_kv_last_page_len_buf: Tensor | None = None,
        custom_mask_buf: Tensor | None = None,
        mask_indptr_buf: Tensor | None = None,
        backend: str = "auto",
        jit_args: list[Any] | None = None,
        jit_kwargs: dict[str, Any] | None = None,
        variant_owns_mask: bool = False,
    ) -> None:
        """`float_workspace_buffer` says on which device; it and the other buffers are not written."""
        require_no_extras((), jit_args=jit_args)
        super().__init__(float_workspace_buffer, kv_layout, use_cuda_graph)

    def plan(
        self,
        qo_indptr: Tensor,
        paged_kv_indptr: Tensor,
        paged_kv_indices: Tensor,
        paged_kv_last_page_len: Tensor,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim_qk: int,
        page_size: int,
        head_dim_vo: int | None = None,
        custom_mask: Tensor | None = None,
        packed_custom_mask: Tensor | None = None,
        causal: bool = False,
        pos_encoding_mode: str = "NONE",
        use_fp16_qk_reduction: bool = False,
        sm_scale: float | None = None,
        window_left: int = -1,
        logits_soft_cap: float | None = None,
        rope_scale: float | None = None,
        rope_theta: float | None = None,
        q_data_type: str | torch.dtype = "float16",
        kv_data_type: str | torch.dtype | None = None,
        o_data_type: str | torch.dtype | None = None,
        non_blocking: bool = True,
        prefix_len_ptr: Tensor | None = None,
        token_pos_in_items_ptr: Tensor | None = None,
        token_pos_in_items_len: int = 0,
        max_item_len_ptr: Tensor | None = None,
        seq_lens: Tensor | None = None,
        seq_lens_q: Tensor | None = None,
        block_tables: Tensor | None = None,
        max_token_per_sequence: int | None = None,
        max_sequence_kv: int | None = None,
        fixed_split_size: int | None = None,
        disable_split_kv: bool = False,
    ) -> None:
        """qo_indptr, paged_kv_indptr [requests + 1]; paged_kv_indices [pages]; paged_kv_last_page_len
        [requests]. custom_mask: bool, [q_len * kv_len] of one request after another.

        The host reads the lengths, as FlashInfer's does. seq_lens and seq_lens_q must agree with the
        rest. What says the same again (block_tables, max_token_per_sequence, max_sequence_kv) and what
        only steers FlashInfer's kernels (use_fp16_qk_reduction, non_blocking, fixed_split_size,
        disable_split_kv) has no effect.
        """
        require_no_extras(
            (), prefix_len_ptr=prefix_len_ptr, token_pos_in_items_ptr=token_pos_in_items_ptr,
            max_item_len_ptr=max_item_len_ptr,
        )  # fmt: skip
        requests = require_tensor("paged_kv_last_page_len", paged_kv_last_page_len, 1).shape[0]
        sums_q = require_integers("qo_indptr", qo_indptr, requests + 1).cpu()
        sums = require_integers("paged_kv_indptr", paged_kv_indptr, requests + 1).cpu()
        last = paged_kv_last_page_len.cpu()
        page = require_integer("page_size", page_size, 1)
        require_tensor("paged_kv_indices", paged_kv_indices, 1)
        require_sums("qo_indptr", sums_q)
        check_pages(sums, paged_kv_indices, last, page)
        q_lens, kv_lens = sums_q[1:] - sums_q[:-1], kv_lens_of(sums, last, page)
        require_agreement(q_lens, seq_lens_q=seq_lens_q)
        require_agreement(kv_lens, seq_lens=seq_lens)
        self._plan_batch(
            Settings.checked(causal, pos_encoding_mode, window_left, logits_soft_cap, sm_scale),
            q_lens, kv_lens, page=page, page_table=table_of(sums, paged_kv_indices),
            heads=(num_qo_heads, num_kv_heads), dims=(head_dim_qk, head_dim_vo),
            dtypes=(q_data_type, kv_data_type, o_data_type), masks=(custom_mask, packed_custom_mask),
        )  # fmt: skip

    begin_forward = plan

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
        lse_base: str = "log2",
        lse_layout: str = "NH",
        enable_pdl: bool | None = None,
        window_left: int | None = None,
        sinks: Tensor | None = None,
        kv_cache_sf: Any = None,
        skip_softmax_threshold_scale_factor: float | None = None,
        use_fp16_softmax: bool | None = None,
        uses_spcompress: bool | None = None,
    ) -> Any:
        """q [total_q, hq, d]; the cache [pages, 2, page, hkv, d] (HND: [pages, 2, hkv, page, d]), or K's
        and V's apart. Returns out, or (out, LSE).

        The results are exact: what lets FlashInfer's kernels be less so has no effect.
        """
        require_no_extras((), kv_cache_sf=kv_cache_sf)
        k, v = self._pools(paged_kv_cache)
        settings = self._settings
        if window_left is not None:
            settings = replace(settings, window_left=require_integer("window_left", window_left, -1))
        scales = self._scales(q, args, {"q_scale": q_scale, "k_scale": k_scale, "v_scale": v_scale})
        return self._run(
            q, k, v, settings, order=self._order, scales=scales, sinks=sinks, out=out, lse=lse,
            return_lse=return_lse, lse_base=lse_base, lse_layout=lse_layout,
        )  # fmt: skip

    run_return_lse = functools.partialmethod(run, return_lse=True)

    def forward(
        self,
        q: Tensor,
        paged_kv_cache: Tensor | tuple[Tensor, Tensor],
        causal: bool = False,
        pos_encoding_mode: str = "NONE",
        use_fp16_qk_reduction: bool = False,
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
        self._set(causal, pos_encoding_mode, window_left, logits_soft_cap, sm_scale)
        return self.run(q, paged_kv_cache, k_scale=k_scale, v_scale=v_scale, return_lse=return_lse)

    forward_return_lse = functools.partialmethod(forward, return_lse=True)


class BatchPrefillWithRaggedKVCacheWrapper(_Prefill):
    """Prefill over keys and values of one request after another."""

    def __init__(
        self,
        float_workspace_buffer: Tensor,
        kv_layout: str = "NHD",
        use_cuda_graph: bool = False,
        qo_indptr_buf: Tensor | None = None,
        kv_indptr_buf: Tensor | None = None,
        custom_mask_buf: Tensor | None = None,
        mask_indptr_buf: Tensor | None = None,
        backend: str = "auto",
        jit_args: list[Any] | None = None,
        jit_kwargs: dict[str, Any] | None = None,
        variant_owns_mask: bool = False,
    ) -> None:
        """`float_workspace_buffer` says on which device; it and the other buffers are not written."""
        require_no_extras((), jit_args=jit_args)
        super().__init__(float_workspace_buffer, kv_layout, use_cuda_graph)

    def plan(
        self,
        qo_indptr: Tensor,
        kv_indptr: Tensor,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim_qk: int,
        head_dim_vo: int | None = None,
        custom_mask: Tensor | None = None,
        packed_custom_mask: Tensor | None = None,
        causal: bool = False,
        pos_encoding_mode: str = "NONE",
        use_fp16_qk_reduction: bool = False,
        window_left: int = -1,
        logits_soft_cap: float | None = None,
        sm_scale: float | None = None,
        rope_scale: float | None = None,
        rope_theta: float | None = None,
        q_data_type: str | torch.dtype = "float16",
        kv_data_type: str | torch.dtype | None = None,
        o_data_type: str | torch.dtype | None = None,
        non_blocking: bool = True,
        prefix_len_ptr: Tensor | None = None,
        token_pos_in_items_ptr: Tensor | None = None,
        token_pos_in_items_len: int = 0,
        max_item_len_ptr: Tensor | None = None,
        fixed_split_size: int | None = None,
        disable_split_kv: bool = False,
        seq_lens: Tensor | None = None,
        seq_lens_q: Tensor | None = None,
        max_token_per_sequence: int | None = None,
        max_sequence_kv: int | None = None,
        v_indptr: Tensor | None = None,
        o_indptr: Tensor | None = None,
    ) -> None:
        """qo_indptr, kv_indptr [requests + 1]. custom_mask: bool, [q_len * kv_len] of one request after
        another. The host reads the lengths, as FlashInfer's does; what has no effect, as in the paged
        wrapper's plan."""
        require_no_extras(
            (), prefix_len_ptr=prefix_len_ptr, token_pos_in_items_ptr=token_pos_in_items_ptr,
            max_item_len_ptr=max_item_len_ptr,
        )  # fmt: skip
        requests = require_tensor("qo_indptr", qo_indptr, 1).shape[0] - 1
        sums_q = require_integers("qo_indptr", qo_indptr, requests + 1).cpu()
        sums = require_integers("kv_indptr", kv_indptr, requests + 1).cpu()
        require_sums("qo_indptr", sums_q)
        require_sums("kv_indptr", sums)
        for name, given, planned in (("v_indptr", v_indptr, sums), ("o_indptr", o_indptr, sums_q)):
            if given is not None and given.tolist() != planned.tolist():
                raise UnsupportedError(
                    f"{name}={given.tolist()}: Octavo has one for both sides, {planned.tolist()}"
                )
        q_lens, kv_lens = (x[1:] - x[:-1] for x in (sums_q, sums))
        require_agreement(q_lens, seq_lens_q=seq_lens_q)
        require_agreement(kv_lens, seq_lens=seq_lens)
        self._plan_batch(
            Settings.checked(causal, pos_encoding_mode, window_left, logits_soft_cap, sm_scale),
            q_lens, kv_lens, heads=(num_qo_heads, num_kv_heads), dims=(head_dim_qk, head_dim_vo),
            dtypes=(q_data_type, kv_data_type, o_data_type), masks=(custom_mask, packed_custom_mask),
        )  # fmt: skip
        self._tokens = int(sums[-1])

    begin_forward = plan

    def run(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *args: Any,
        q_scale: float | Tensor | None = None,
        k_scale: float | Tensor | None = None,
        v_scale: float | Tensor | None = None,
        o_scale: float | None = None,
        out: Tensor | None = None,
        lse: Tensor | None = None,
        return_lse: bool = False,
        lse_base: str = "log2",
        lse_layout: str = "NH",
        enable_pdl: bool | None = None,
        kv_cache_sf: Any = None,
    ) -> Any:
        """q [total_q, hq, d]; k, v [total_kv, hkv, d] (HND: [hkv, total_kv, d]). The result is divided
        by o_scale. Returns out, or (out, LSE)."""
        require_no_extras((), kv_cache_sf=kv_cache_sf)
        k, v = (require_tensor(name, x, 3) for name, x in (("k", k), ("v", v)))
        if self._order == "hnd":
            k, v = k.transpose(0, 1), v.transpose(0, 1)
        if self._batch is not None and k.shape[0] < self._tokens:
            refuse(f"k has {k.shape[0]} tokens: the plan says {self._tokens}")
        scales = {"q_scale": q_scale, "k_scale": k_scale, "v_scale": v_scale}
        scales = self._scales(q, args, scales)
        scales["out_scale"] = None if o_scale is None else 1 / o_scale
        return self._run(
            q, k, v, self._settings, scales=scales, out=out, lse=lse, return_lse=return_lse,
            lse_base=lse_base, lse_layout=lse_layout,
        )  # fmt: skip

    run_return_lse = functools.partialmethod(run, return_lse=True)

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        causal: bool = False,
        pos_encoding_mode: str = "NONE",
        use_fp16_qk_reduction: bool = False,
        window_left: int = -1,
        logits_soft_cap: float | None = None,
        sm_scale: float | None = None,
        rope_scale: float | None = None,
        rope_theta: float | None = None,
        return_lse: bool = False,
    ) -> Any:
        """`run`, with settings in the place of the plan's."""
        self._set(causal, pos_encoding_mode, window_left, logits_soft_cap, sm_scale)
        return self.run(q, k, v, return_lse=return_lse)

    forward_return_lse = functools.partialmethod(forward, return_lse=True)
