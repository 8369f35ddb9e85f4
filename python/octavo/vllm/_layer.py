"""What a layer of vLLM's asks of its attention, as a problem."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from typing import Any

import torch
from vllm.config import VllmConfig, get_current_vllm_config
from vllm.v1.attention.backend import AttentionImpl, AttentionType, CommonAttentionMetadata

from .._arrays import Description, describe, dtype_name
from .._bounds import Bounds
from .._errors import UnsupportedError

FP8 = {
    "fp8": torch.float8_e4m3fn,
    "fp8_e4m3": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}


@dataclass
class Metadata:
    """One step's batch, shared by the layers."""

    requests: int
    tokens: int
    max_q_len: int
    q_lens: torch.Tensor
    """int32 [requests]"""
    kv_lens: torch.Tensor
    """int32 [requests]"""
    page_table: torch.Tensor
    """int32 [requests, columns]"""
    causal: bool
    slot_mapping: torch.Tensor
    """int64 [tokens]: where the layers' new K and V go; cross attention replaces it by its own"""

    @functools.cached_property
    def described(self) -> dict[str, Description]:
        """The lengths and the page table, for the compiled module."""
        arrays = {"q_lens": self.q_lens, "kv_lens": self.kv_lens, "page_table": self.page_table}
        return {name: describe(name, array) for name, array in arrays.items()}


def metadata_of(batch: CommonAttentionMetadata, q_lens: torch.Tensor) -> Metadata:
    if not isinstance(batch.causal, bool):
        raise UnsupportedError("a causal mask that differs between the requests of a batch")
    if batch.mm_req_doc_ranges:
        raise UnsupportedError("bidirectional ranges within a causal prompt")
    return Metadata(
        requests=batch.num_reqs,
        tokens=batch.num_actual_tokens,
        max_q_len=batch.max_query_len,
        q_lens=q_lens,
        kv_lens=batch.seq_lens[: batch.num_reqs].to(torch.int32),
        page_table=batch.block_table_tensor[: batch.num_reqs],
        causal=batch.causal,
        slot_mapping=batch.slot_mapping,
    )


class LayerImpl(AttentionImpl[Metadata]):
    """The attention of one layer, but for the device: its problem.

    The cache of a layer is [blocks, hkv, block, 2 d] to vLLM; what stands where in a head's block is for the
    device's part to say.
    """

    def __init__(
        self,
        num_heads: int,
        head_size: int,
        scale: float,
        num_kv_heads: int,
        alibi_slopes: list[float] | None,
        sliding_window: int | None,
        kv_cache_dtype: str,
        logits_soft_cap: float | None = None,
        attn_type: str = AttentionType.DECODER,
        kv_sharing_target_layer_name: str | None = None,
        sinks: torch.Tensor | None = None,
    ) -> None:
        config = get_current_vllm_config()
        model = config.model_config
        _refuse_what_no_kernel_has(config, kv_cache_dtype)
        self.num_heads = num_heads
        self.head_size = head_size
        self.scale = float(scale)
        self.num_kv_heads = num_kv_heads
        self.kv_cache_dtype = kv_cache_dtype
        self.kv_sharing_target_layer_name = kv_sharing_target_layer_name
        self.encodes = attn_type in (AttentionType.ENCODER, AttentionType.ENCODER_ONLY)
        """Whether K and V are those of the step, and not in a cache."""
        self.sinks = sinks  # its values are loaded later than this
        self.alibi_slopes = None
        if alibi_slopes is not None:
            self.alibi_slopes = torch.tensor(alibi_slopes, dtype=torch.float32)
        self.kv_dtype = model.dtype if self.encodes else FP8.get(kv_cache_dtype, model.dtype)
        layout = "ragged" if self.encodes else "paged pool=split order=hnd"
        words = [
            f"{layout} q={dtype_name(model.dtype)} kv={dtype_name(self.kv_dtype)}",
            f"hq={num_heads} hkv={num_kv_heads} d={head_size} scale={self.scale!r}",
        ]
        if logits_soft_cap:
            words.append(f"cap={float(logits_soft_cap)!r}")
        words += ["sinks"] * (sinks is not None) + ["alibi"] * (alibi_slopes is not None)
        words += ["invariant"] * (os.environ.get("VLLM_BATCH_INVARIANT", "0") not in ("", "0"))
        self._words = " ".join(words)
        window = None if sliding_window is None else sliding_window - 1
        self._masks = {
            True: "causal" if window is None else f"window:{window},0",
            False: "none" if window is None else f"window:{window},{window}",
        }
        self.bounds = _bounds(config, attn_type)
        self.typical = not self.encodes and attn_type != AttentionType.ENCODER_DECODER
        """Whether the layer's mask is causal, as far as is known while the model loads."""

    def problem(self, causal: bool, page: int) -> str:
        """Of steps with pages of so many tokens; without the lengths."""
        paged = "" if self.encodes else f" page={page}"
        return f"{self._words}{paged} mask={self._masks[causal]}"

    def process_weights_after_loading(self, act_dtype: torch.dtype) -> None:
        """vLLM's hook: the sinks are there."""
        if self.sinks is not None:
            self.sink_logits = self.sinks.detach().to(torch.float32)

    sink_logits: torch.Tensor | None = None


def refuse_quantised_output(*scales: Any) -> None:
    if any(scale is not None for scale in scales):
        raise UnsupportedError("a quantised output")


def _refuse_what_no_kernel_has(config: VllmConfig, kv_cache_dtype: str) -> None:
    model = config.model_config
    if model.is_mm_prefix_lm:
        raise UnsupportedError("bidirectional ranges within a causal prompt")
    if getattr(model.hf_text_config, "attention_chunk_size", None):
        raise UnsupportedError("vLLM's chunked local attention")
    if kv_cache_dtype != "auto" and kv_cache_dtype not in FP8:
        raise UnsupportedError(f"kv_cache_dtype={kv_cache_dtype}: must be auto or one of "
                               f"{', '.join(FP8)}")  # fmt: skip


def _bounds(config: VllmConfig, attn_type: str) -> Bounds:
    scheduler = config.scheduler_config
    tokens = scheduler.max_num_batched_tokens
    kv_len = config.model_config.max_model_len
    if attn_type == AttentionType.ENCODER_DECODER:
        kv_len = max(kv_len, scheduler.max_num_encoder_input_tokens)
    return Bounds(scheduler.max_num_seqs, tokens, tokens, kv_len)
