"""FlashInfer's functions and wrappers on Octavo, for torch tensors on the CPU or a GPU.

    import octavo.flashinfer as flashinfer

docs/flashinfer.md lists what differs.
"""

from ._fmha import trtllm_fmha_v2_prefill

__all__ = ["trtllm_fmha_v2_prefill"]
