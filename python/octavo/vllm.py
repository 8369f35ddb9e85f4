"""Octavo as vLLM's attention on the CPU.

Installing the package changes nothing: vLLM calls `register` at its start, and only where OCTAVO_VLLM=1
does that put `Backend` in the place of vLLM's own CPU attention. A model that needs what Octavo cannot
do is refused while it loads, with the reason.

The cache of a layer is [blocks, hkv, block, 2 d]: a token's key, then its value.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from vllm.config import VllmConfig, get_current_vllm_config
from vllm.logger import init_logger
from vllm.v1.attention.backend import (
    AttentionImpl,
    AttentionMetadataBuilder,
    AttentionType,
    CommonAttentionMetadata,
    MultipleOf,
)
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend
from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

from ._arrays import dtype_name
from ._errors import UnsupportedError
from ._plan import Plan, plan

logger = init_logger(__name__)

_FP8 = {
    "fp8": torch.float8_e4m3fn,
    "fp8_e4m3": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}


def register() -> None:
    """vLLM's entry point for plugins, called in each of its processes."""
    if os.environ.get("OCTAVO_VLLM", "0") not in ("", "0"):
        register_backend(AttentionBackendEnum.CPU_ATTN, "octavo.vllm.Backend")


@dataclass
class Metadata:
    """One step's batch, shared by the layers."""

    tokens: int
    q_lens: torch.Tensor
    """int32 [requests]"""
    kv_lens: torch.Tensor
    """int32 [requests]"""
    page_table: torch.Tensor
    """int32 [requests, columns]"""
    causal: bool


class MetadataBuilder(AttentionMetadataBuilder[Metadata]):
    def __init__(self, kv_cache_spec: Any, layer_names: list[str], vllm_config: VllmConfig,
                 device: torch.device) -> None:
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)

    def build(self, common_prefix_len: int, common_attn_metadata: CommonAttentionMetadata,
              fast_build: bool = False) -> Metadata:
        batch = common_attn_metadata
        if not isinstance(batch.causal, bool):
            raise UnsupportedError("a causal mask that differs between the requests of a batch")
        if batch.mm_req_doc_ranges:
            raise UnsupportedError("bidirectional ranges within a causal prompt")
        starts = batch.query_start_loc[: batch.num_reqs + 1]
        return Metadata(
            tokens=batch.num_actual_tokens,
            q_lens=(starts[1:] - starts[:-1]).to(torch.int32),
            kv_lens=batch.seq_lens[: batch.num_reqs].to(torch.int32),
            page_table=batch.block_table_tensor[: batch.num_reqs],
            causal=batch.causal,
        )


class Backend(CPUAttentionBackend):
    @staticmethod
    def get_supported_kernel_block_sizes(kv_cache_spec: Any = None) -> list[int | MultipleOf]:
        return [MultipleOf(1)]

    @classmethod
    def get_supported_head_sizes(cls) -> list[int]:
        return []  # any: the selection of a kernel decides

    @classmethod
    def supports_sink(cls) -> bool:
        return True

    @classmethod
    def supports_attn_type(cls, attn_type: str) -> bool:
        return attn_type == AttentionType.DECODER

    @staticmethod
    def get_impl_cls() -> type[Impl]:
        return Impl

    @staticmethod
    def get_builder_cls() -> type[MetadataBuilder]:
        return MetadataBuilder


class Impl(AttentionImpl[Metadata]):
    """The attention of one layer."""

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
        self.num_heads = num_heads
        self.head_size = head_size
        self.scale = float(scale)
        self.num_kv_heads = num_kv_heads
        self.kv_cache_dtype = kv_cache_dtype
        self.kv_sharing_target_layer_name = kv_sharing_target_layer_name
        self.sinks = sinks  # loaded later than this
        self.alibi_slopes = None
        if alibi_slopes is not None:
            self.alibi_slopes = torch.tensor(alibi_slopes, dtype=torch.float32)
        if attn_type != AttentionType.DECODER:
            raise UnsupportedError(
                f"attn_type={AttentionType(attn_type).value}: Octavo serves decoders only"
            )
        config = get_current_vllm_config()
        model = config.model_config
        if model.is_mm_prefix_lm:
            raise UnsupportedError("bidirectional ranges within a causal prompt")
        if getattr(model.hf_text_config, "attention_chunk_size", None):
            raise UnsupportedError("vLLM's chunked local attention")
        if kv_cache_dtype != "auto" and kv_cache_dtype not in _FP8:
            raise UnsupportedError(f"kv_cache_dtype={kv_cache_dtype}: must be auto or one of "
                                   f"{', '.join(_FP8)}")
        self.kv_dtype = _FP8.get(kv_cache_dtype, model.dtype)
        window = None if sliding_window is None else sliding_window - 1
        words = [
            f"paged pool=split order=hnd q={dtype_name(model.dtype)} kv={dtype_name(self.kv_dtype)}",
            f"hq={num_heads} hkv={num_kv_heads} d={head_size} scale={self.scale!r}",
        ]
        if logits_soft_cap:
            words.append(f"cap={float(logits_soft_cap)!r}")
        words += ["sinks"] * (sinks is not None) + ["alibi"] * (alibi_slopes is not None)
        words += ["invariant"] * (os.environ.get("VLLM_BATCH_INVARIANT", "0") not in ("", "0"))
        self._problem = " ".join(words)
        self._masks = {
            True: "causal" if window is None else f"window:{window},0",
            False: "none" if window is None else f"window:{window},{window}",
        }
        self._bounds = _bounds(config)
        self._plans: dict[tuple[bool, int], Plan] = {}
        # Here, so that a refusal comes while the model loads.
        logger.info_once("Octavo: %s", self._plan(True, config.cache_config.block_size))

    def _plan(self, causal: bool, page: int) -> Plan:
        """One plan for every step, so that a request's bits don't depend on its batch."""
        key = causal, page
        if key not in self._plans:
            text = f"{self._problem} page={page} mask={self._masks[causal]} {self._bounds}"
            self._plans[key] = plan(text)
        return self._plans[key]

    def forward(
        self,
        layer: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        attn_metadata: Metadata | None,
        output: torch.Tensor,
        output_scale: torch.Tensor | None = None,
        output_block_scale: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """query and output [tokens, hq, d]; metadata is None while vLLM warms up."""
        if output_scale is not None or output_block_scale is not None:
            raise UnsupportedError("a quantised output")
        if attn_metadata is None:
            return output
        batch = attn_metadata
        if self.sinks is not None:
            self.sinks = self.sinks.to(torch.float32)
        k, v = kv_cache.view(self.kv_dtype).chunk(2, dim=-1)
        self._plan(batch.causal, kv_cache.shape[2]).run(
            query[: batch.tokens],
            k,
            v,
            q_lens=batch.q_lens,
            kv_lens=batch.kv_lens,
            page_table=batch.page_table,
            out=output[: batch.tokens],
            sinks=self.sinks,
            alibi_slopes=self.alibi_slopes,
            k_scale=layer._k_scale_float,
            v_scale=layer._v_scale_float,
        )
        return output

    def do_kv_cache_update(
        self,
        layer: Any,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        slot_mapping: torch.Tensor,
    ) -> None:
        """Writes key and value [tokens, hkv, d] into the slots; negative slots are padding."""
        if self.kv_cache_dtype in _FP8:
            largest = torch.finfo(self.kv_dtype).max
            key, value = (
                (x / scale).clamp(-largest, largest)
                for x, scale in ((key, layer._k_scale_float), (value, layer._v_scale_float))
            )
        used = slot_mapping >= 0
        slots, count = slot_mapping[used], slot_mapping.shape[0]
        page = kv_cache.shape[2]
        tokens = torch.cat((key[:count], value[:count]), dim=-1)[used].to(self.kv_dtype)
        kv_cache[slots // page, :, slots % page] = tokens.view(kv_cache.dtype)


def _bounds(config: VllmConfig) -> str:
    requests = config.scheduler_config.max_num_seqs
    tokens = [config.scheduler_config.max_num_batched_tokens] + [0] * (requests - 1)
    kv_len = config.model_config.max_model_len
    return f"b={requests} q_len={','.join(map(str, tokens))} kv_len={kv_len}"
