"""The backend on CPUs. A step calls every layer, so what Python does in a call is kept short: arrays that
layers or steps have in common are described to the compiled module once."""

from __future__ import annotations

import functools
from typing import Any

import torch
from vllm.config import get_current_vllm_config
from vllm.logger import init_logger
from vllm.v1.attention.backend import (
    AttentionMetadataBuilder,
    CommonAttentionMetadata,
    MultipleOf,
)
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

from .. import _octavo
from .._arrays import Description, describe
from .._plan import Plan, plan
from ._layer import LayerImpl, Metadata, metadata_of, refuse_quantised_output

logger = init_logger(__name__)


class MetadataBuilder(AttentionMetadataBuilder[Metadata]):
    def __init__(self, kv_cache_spec: Any, layer_names: list[str], vllm_config: Any,
                 device: torch.device) -> None:  # fmt: skip
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)

    def build(self, common_prefix_len: int, common_attn_metadata: CommonAttentionMetadata,
              fast_build: bool = False) -> Metadata:  # fmt: skip
        starts = common_attn_metadata.query_start_loc[: common_attn_metadata.num_reqs + 1]
        return metadata_of(common_attn_metadata, (starts[1:] - starts[:-1]).to(torch.int32))


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

    @staticmethod
    def get_impl_cls() -> type[Impl]:
        return Impl

    @staticmethod
    def get_builder_cls() -> type[MetadataBuilder]:
        return MetadataBuilder


class Impl(LayerImpl):
    """The attention of one layer."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._plans: dict[tuple[bool, int], Plan] = {}
        self._described_pools: tuple[torch.Tensor, Description, Description] | None = None
        # Here, so that a refusal comes while the model loads.
        page = get_current_vllm_config().cache_config.block_size
        logger.info_once("Octavo: %s", self._plan(self.typical, page))

    def _plan(self, causal: bool, page: int) -> Plan:
        """One plan for every step, so that a request's bits don't depend on its batch."""
        key = causal, page
        if key not in self._plans:
            self._plans[key] = plan(f"{self.problem(causal, page)} {self.bounds.lengths()}")
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
        refuse_quantised_output(output_scale, output_block_scale)
        if attn_metadata is None:
            return output
        batch = attn_metadata
        lengths = batch.described
        if self.encodes:
            page = 1
            k, v = _all_tokens(key[: batch.tokens]), _all_tokens(value[: batch.tokens])
            lengths = {name: lengths[name] for name in ("q_lens", "kv_lens")}
            scales = {}
        else:
            page = kv_cache.shape[2]
            k, v = self._pools(kv_cache)
            scales = {"k_scale": layer._k_scale_float, "v_scale": layer._v_scale_float}
        self._plan(batch.causal, page).native.run(
            describe("q", query[: batch.tokens]),
            k,
            v,
            out=describe("out", output[: batch.tokens]),
            **lengths,
            **scales,
            **self._per_head,
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
        count = slot_mapping.shape[0]
        k, v = self._pools(kv_cache)
        _octavo.store(
            describe("key", key[:count]),
            describe("value", value[:count]),
            k,
            v,
            "nhd",
            describe("slot_mapping", slot_mapping),
            layer._k_scale_float,
            layer._v_scale_float,
        )

    def _pools(self, kv_cache: torch.Tensor) -> tuple[Description, Description]:
        """The layer's K and V as [blocks, block, hkv, d]: in a block, the keys of a head before its values, so
        that either are read in a line."""
        if self._described_pools is None or self._described_pools[0] is not kv_cache:
            blocks, heads, page, width = kv_cache.shape
            halves = kv_cache.view(self.kv_dtype).view(blocks, heads, 2, page, width // 2)
            k, v = (describe("kv_cache", x.transpose(1, 2)) for x in halves.unbind(2))
            self._described_pools = kv_cache, k, v
        return self._described_pools[1:]

    @functools.cached_property
    def _per_head(self) -> dict[str, Description]:
        arrays = {"sinks": self.sink_logits, "alibi_slopes": self.alibi_slopes}
        return {name: describe(name, array) for name, array in arrays.items() if array is not None}

    def process_weights_after_loading(self, act_dtype: torch.dtype) -> None:
        super().process_weights_after_loading(act_dtype)
        self.__dict__.pop("_per_head", None)  # of the weights before


def _all_tokens(x: torch.Tensor) -> Description:
    """K or V [tokens, hkv, d] without pages, as if in one."""
    address, dtype, shape, strides = describe("key", x)
    return address, dtype, (1, *shape), (0, *strides)
