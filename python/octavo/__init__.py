"""Octavo: exact attention over paged KV caches.

A problem is computed by a kernel that declared it can, or refused with the reasons.

    octavo.attention(q, k, v, page_table=..., q_lens=..., kv_lens=..., mask="causal")
    octavo.explain("paged q=bf16 hq=14 hkv=2 d=64 mask=causal q_len=8 kv_len=9")
"""

from ._attention import attention, common_prefix
from ._errors import (
    CacheFullError,
    DeviceError,
    Error,
    InvalidArgumentError,
    InvalidProblemError,
    UnavailableError,
    UnsupportedError,
)
from ._kv_cache import Admission, CacheStatistics, KVCache, Rope, rope_table, rotate, store
from ._merge import merge_states
from ._plan import Plan, explain, kernels, plan

__version__ = "0.1.0"

__all__ = [
    "Admission",
    "CacheFullError",
    "CacheStatistics",
    "DeviceError",
    "Error",
    "InvalidArgumentError",
    "InvalidProblemError",
    "KVCache",
    "Plan",
    "Rope",
    "UnavailableError",
    "UnsupportedError",
    "attention",
    "common_prefix",
    "explain",
    "kernels",
    "merge_states",
    "plan",
    "rope_table",
    "rotate",
    "store",
]
