"""Whose threads compute on the CPU."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from . import _octavo


def use_openmp_of_torch() -> None:
    """From now on, runs on the CPU use the threads of torch's OpenMP, if torch has one that is loaded, and
    unless OCTAVO_NUM_THREADS asks for threads of Octavo's own.

    Between torch's operations its threads wait actively for the next one. Others would share their
    processors meanwhile.
    """
    if "OCTAVO_NUM_THREADS" in os.environ:
        return
    path = _openmp_of_torch()
    if path is not None:
        _octavo.use_openmp(path)


def _openmp_of_torch() -> str | None:
    """The path of the OpenMP library that lies beside torch's own libraries; empty if another was
    preloaded, which torch then calls too."""
    import torch

    if hasattr(ctypes.CDLL(None), "GOMP_parallel"):
        return ""
    beside = Path(torch.__file__).parent
    places = (beside / "lib", beside.parent / "torch.libs")
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return None
    loaded = {line.split()[-1] for line in maps.read_text().splitlines() if "/" in line}
    names = ("libgomp", "libiomp5", "libomp")
    for path in sorted(loaded):
        if Path(path).parent in places and Path(path).name.startswith(names):
            return path
    return None
