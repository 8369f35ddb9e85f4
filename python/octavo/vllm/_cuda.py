"""The backend on NVIDIA GPUs. Its calls can be captured in CUDA graphs: lengths and page tables are read on
the device, from buffers that vLLM and the builder keep, and the workspace is one buffer for all layers."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from vllm import _custom_ops as ops
from vllm.config import VllmConfig, get_current_vllm_config
from vllm.logger import init_logger
from vllm.v1.attention.backend import (
    AttentionBackend,
    AttentionCGSupport,
    AttentionMetadataBuilder,
    AttentionType,
    CommonAttentionMetadata,
    MultipleOf,
)
from vllm.v1.attention.backends.registry import AttentionBackendEnum

from .._bounds import Bounds
from .._plan import Plan, plan_within
from ._layer import LayerImpl, Metadata, metadata_of, refuse_quantised_output

logger = init_logger(__name__)


class MetadataBuilder(AttentionMetadataBuilder[Metadata]):
    _cudagraph_support: ClassVar[AttentionCGSupport] = AttentionCGSupport.ALWAYS

    def __init__(self, kv_cache_spec: Any, layer_names: list[str], vllm_config: VllmConfig,
                 device: torch.device) -> None:  # fmt: skip
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)
        requests = vllm_config.scheduler_config.max_num_seqs
        self._q_lens = torch.zeros(requests, dtype=torch.int32, device=device)

    def build(self, common_prefix_len: int, common_attn_metadata: CommonAttentionMetadata,
              fast_build: bool = False) -> Metadata:  # fmt: skip
        requests = common_attn_metadata.num_reqs
        starts = common_attn_metadata.query_start_loc[: requests + 1]
        q_lens = self._q_lens[:requests]
        torch.sub(starts[1:], starts[:-1], out=q_lens)  # where a captured graph reads them
        return metadata_of(common_attn_metadata, q_lens)

    def build_for_cudagraph_capture(self, common_attn_metadata: CommonAttentionMetadata) -> Metadata:
        metadata = self.build(0, common_attn_metadata)
        metadata.kv_lens.fill_(1)  # a capture runs what it captures, and should be quick
        return metadata


class Backend(AttentionBackend):
    supported_dtypes: ClassVar[list[torch.dtype]] = [torch.float16, torch.bfloat16, torch.float32]
    supported_kv_cache_dtypes: ClassVar[list[Any]] = ["auto", "fp8", "fp8_e4m3"]
    forward_includes_kv_cache_update = False

    @staticmethod
    def get_name() -> str:
        return AttentionBackendEnum.CUSTOM.name

    @staticmethod
    def get_supported_kernel_block_sizes(kv_cache_spec: Any = None) -> list[int | MultipleOf]:
        return [MultipleOf(1)]

    @classmethod
    def supports_sink(cls) -> bool:
        return True

    @classmethod
    def supports_sliding_window(cls) -> bool:
        return True

    @classmethod
    def supports_non_causal(cls) -> bool:
        return True

    @classmethod
    def supports_batch_invariance(cls) -> bool:
        return True

    @classmethod
    def supports_compute_capability(cls, capability: Any) -> bool:
        return capability.major >= 8

    @classmethod
    def supports_attn_type(cls, attn_type: str) -> bool:
        return attn_type in tuple(AttentionType)

    @staticmethod
    def get_impl_cls() -> type[Impl]:
        return Impl

    @staticmethod
    def get_builder_cls() -> type[MetadataBuilder]:
        return MetadataBuilder


class Workspace:
    """Memory for the runs of all layers, which follow one another on a stream. What was handed out once
    stays: graphs that were captured go on using it."""

    def __init__(self) -> None:
        self._kept: list[torch.Tensor] = []

    def of(self, size: int, device: torch.device) -> torch.Tensor | None:
        """At least `size` bytes; None for none."""
        if size == 0:
            return None
        if not self._kept or self._kept[-1].numel() < size or self._kept[-1].device != device:
            self._kept.append(torch.empty(size, dtype=torch.uint8, device=device))
        return self._kept[-1]


_workspace = Workspace()


class Impl(LayerImpl):
    """The attention of one layer."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        device = torch.empty(0, device=get_current_vllm_config().device_config.device).device
        page = get_current_vllm_config().cache_config.block_size
        if self.alibi_slopes is not None:
            self.alibi_slopes = self.alibi_slopes.to(device)
        # Here, so that a refusal comes, and memory is taken, while the model loads.
        largest = self._plan(self.typical, page, self.bounds, device)
        _workspace.of(largest.workspace_size, device)
        logger.info_once("Octavo: %s", largest)

    def _plan(self, causal: bool, page: int, bounds: Bounds, device: torch.device) -> Plan:
        """Bounds near a step's sizes launch less; a request's bits depend on no bounds."""
        name = "cpu" if device.type == "cpu" else f"cuda:{device.index}"
        return plan_within(self.problem(causal, page), bounds.rounded(), "", name)

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
        """query and output [tokens, hq, d]; metadata is None while vLLM measures memory."""
        refuse_quantised_output(output_scale, output_block_scale)
        if attn_metadata is None:
            return output.zero_()
        batch = attn_metadata
        if self.encodes:
            page, table, scales = 1, None, {}
            k, v = key[: batch.tokens], value[: batch.tokens]
        else:
            page, table = kv_cache.shape[2], batch.page_table
            k, v = self._pools(kv_cache)
            scales = {"k_scale": layer._k_scale_float, "v_scale": layer._v_scale_float}
        bounds = self.bounds._replace(
            requests=batch.requests, tokens=batch.tokens, q_len=batch.max_q_len
        )
        plan = self._plan(batch.causal, page, bounds, query.device)
        plan.run(
            query[: batch.tokens],
            k,
            v,
            q_lens=batch.q_lens,
            kv_lens=batch.kv_lens,
            page_table=table,
            out=output[: batch.tokens],
            sinks=self.sink_logits,
            alibi_slopes=self.alibi_slopes,
            workspace=_workspace.of(plan.workspace_size, query.device),
            **scales,
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
        if self.encodes:
            return
        k, v = (x.transpose(1, 2) for x in self._pools(kv_cache))
        ops.reshape_and_cache_flash(
            key, value, k, v, slot_mapping, self.kv_cache_dtype, layer._k_scale, layer._v_scale
        )

    def _pools(self, kv_cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The layer's K and V as [blocks, hkv, block, d]: a token's key stands before its value."""
        k, v = kv_cache.view(self.kv_dtype).chunk(2, dim=-1)
        return k, v
