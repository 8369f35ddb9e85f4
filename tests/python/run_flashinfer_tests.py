"""Runs FlashInfer's own tests of trtllm_fmha_v2_prefill against octavo.flashinfer.

usage: run_flashinfer_tests.py CHECKOUT [PYTEST OPTION...]    CHECKOUT: FlashInfer's sources

FlashInfer itself need not be installed: the tests get a module of its name that holds Octavo's. Without
a GPU they run on the CPU. They take the device for an SM90 one, whose meaning of the statistics
Octavo's is.
"""

from __future__ import annotations

import sys
import tempfile
import types
from pathlib import Path

import pytest
import torch

import octavo.flashinfer

FILES = {
    "tests/attention/test_fmha_v2_prefill.py": "test_fmha_v2_prefill.py",
    "tests/utils_fp8.py": "tests/utils_fp8.py",
}


class BatchAttentionWithAttentionSinkWrapper:
    """What the tests of sinks compare with, in double precision: causal, pages of one token."""

    def __init__(self, *_, window_left=-1, **__):
        self.window_left = window_left

    def plan(self, q_sums, kv_sums, *_, **__):
        self.ranges = [(*q_sums[i : i + 2], *kv_sums[i : i + 2]) for i in range(len(q_sums) - 1)]

    def run(self, q, kv, sinks, scale):
        k, v = (x.double().repeat_interleave(q.shape[1] // x.shape[1], 1) for x in kv)
        out = torch.empty_like(q, dtype=torch.float64)
        for q0, q1, k0, k1 in self.ranges:
            position = torch.arange(q1 - q0, device=q.device)[:, None] + (k1 - k0) - (q1 - q0)
            key = torch.arange(k1 - k0, device=q.device)
            hidden = key > position
            if self.window_left >= 0:
                hidden |= key < position - self.window_left
            for h in range(q.shape[1]):
                scores = scale * q[q0:q1, h].double() @ k[k0:k1, h].T
                scores = scores.masked_fill(hidden, float("-inf"))
                weights = torch.cat((scores, sinks[h].double().expand(len(scores), 1)), 1).softmax(-1)
                out[q0:q1, h] = weights[:, :-1] @ v[k0:k1, h]
        return out


def absent(*_, **__):
    raise NotImplementedError("not in octavo.flashinfer")


def offer_as_flashinfer() -> None:
    """Makes `import flashinfer` find octavo.flashinfer, and what the tests ask of the device."""
    top = types.ModuleType("flashinfer")
    prefill, utils = types.ModuleType("flashinfer.prefill"), types.ModuleType("flashinfer.utils")
    prefill.trtllm_fmha_v2_prefill = octavo.flashinfer.trtllm_fmha_v2_prefill
    prefill.fmha_v2_prefill_deepseek = prefill.fmha_v2_prefill_sm120 = absent  # SM12x's own
    utils.is_sm90a_supported, utils.is_sm12x_supported = lambda _: True, lambda _: False
    top.prefill, top.utils = prefill, utils
    top.BatchAttentionWithAttentionSinkWrapper = BatchAttentionWithAttentionSinkWrapper
    top.SfLayout = None  # tests/utils_fp8.py names it for other tests
    sys.modules |= {"flashinfer": top, "flashinfer.prefill": prefill, "flashinfer.utils": utils}


def main() -> int:
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    checkout = Path(sys.argv[1])
    offer_as_flashinfer()
    with tempfile.TemporaryDirectory() as folder:
        for source, target in FILES.items():
            text = (checkout / source).read_text()
            if not torch.cuda.is_available():
                text = text.replace('"cuda"', '"cpu"')
            place = Path(folder, target)
            place.parent.mkdir(exist_ok=True)
            place.write_text(text)
        sys.path.insert(0, folder)
        options = ["-p", "no:cacheprovider", "--rootdir", folder, *sys.argv[2:]]
        return pytest.main([str(Path(folder, "test_fmha_v2_prefill.py")), *options])


if __name__ == "__main__":
    sys.exit(main())
