"""Octavo as vLLM's attention, on CPUs and on NVIDIA GPUs.

Installing the package changes nothing: vLLM calls `register` at its start, and only where OCTAVO_VLLM=1
does that put Octavo in the place of vLLM's own attention on the CPU, and make it the backend CUSTOM on
GPUs (`--attention-backend CUSTOM`). A model that needs what Octavo cannot do is refused while it loads,
with the reason.
"""

from __future__ import annotations

import os


def register() -> None:
    """vLLM's entry point for plugins, called in each of its processes."""
    if os.environ.get("OCTAVO_VLLM", "0") in ("", "0"):
        return
    from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

    from .._threads import use_openmp_of_torch

    use_openmp_of_torch()
    register_backend(AttentionBackendEnum.CPU_ATTN, "octavo.vllm._cpu.Backend")
    register_backend(AttentionBackendEnum.CUSTOM, "octavo.vllm._cuda.Backend")
