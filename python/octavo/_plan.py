"""Plans: a problem bound to the kernel that will compute it."""

from __future__ import annotations

import functools
import os
from typing import Any

from . import _octavo
from ._arrays import (
    Description,
    as_array,
    current_stream,
    describe,
    device_of,
    is_gpu_array,
    require_writable,
)
from ._bounds import Bounds
from ._errors import InvalidArgumentError


def explain(problem: str, *, kernel: str = "", device: str = "cpu") -> str:
    """Who computes a problem, at what predicted cost, and why not the others.

    Raises InvalidProblemError, UnsupportedError or UnavailableError, with the reasons.
    """
    return _octavo.explain(problem, device, kernel)


def kernels(device: str = "cpu") -> list[str]:
    """The names of a device's kernels, in the order of its table."""
    return _octavo.kernels(device)


class Plan:
    """A problem bound to a kernel. Immutable: threads may share it and run it at once.

    The lengths in the problem are bounds: a run may have fewer requests and tokens.

    Raises UnavailableError where a GPU's kernel has to be compiled and there is no compiler.
    """

    def __init__(self, problem: str, *, kernel: str = "", device: str = "cpu") -> None:
        self._plan = _octavo.plan(problem, device, kernel)
        self._on_cpu = self._plan.device == "cpu"
        self._hnd = "order=hnd" in self._plan.problem.split()

    @property
    def kernel(self) -> str:
        """The kernel's name."""
        return self._plan.kernel

    @property
    def problem(self) -> str:
        """The canonical text of the problem."""
        return self._plan.problem

    @property
    def native(self) -> Any:
        """The compiled module's plan, for callers of this package that describe arrays themselves."""
        return self._plan

    @property
    def workspace_size(self) -> int:
        """Bytes that a run on a GPU must be given."""
        return self._plan.workspace_size

    def __repr__(self) -> str:
        return f"<octavo.Plan {self.kernel}: {self.problem}>"

    def run(
        self,
        q: Any,
        k: Any,
        v: Any,
        *,
        q_lens: Any,
        kv_lens: Any,
        out: Any,
        page_table: Any = None,
        lse: Any = None,
        mask_bits: Any = None,
        sinks: Any = None,
        alibi_slopes: Any = None,
        q_scale: Any = 1.0,
        k_scale: Any = 1.0,
        v_scale: Any = 1.0,
        out_scale: Any = 1.0,
        workspace: Any = None,
        stream: int | None = None,
    ) -> None:
        """Computes into `out`, and into `lse` where the problem returns it.

        Arrays are numpy arrays, torch tensors, or on a GPU whatever speaks DLPack, outputs even if
        their framework takes them for immutable; only their innermost dimension must be dense. On
        a GPU all are there, and this only enqueues the work.

        q            [total_q, hq, d]; request r's rows follow those of request r - 1
        k, v         paged: [pages, page, hkv, d], or [pages, hkv, page, d] with order=hnd;
                     otherwise [total_kv, hkv, d]
        q_lens       int32 [requests]; `kv_lens` too
        page_table   int32 [requests, columns]: entry (r, c) holds tokens c * page .. of request r
        out          [total_q, hq, dv]
        lse          float32 [total_q, hq]
        mask_bits    uint8 [total_q, bytes]; bit j % 8 of byte j // 8: the query sees key j
        sinks, alibi_slopes    float32 [hq]
        scales       numbers; float32 arrays where the problem says tensor or head
        workspace    uint8 [workspace_size], on a GPU, for this run alone
        stream       the address of a CUDA stream; default: the current one of q's framework

        Raises InvalidArgumentError before any output is touched. The GIL is released meanwhile.
        """
        inputs = {
            "page_table": page_table,
            "mask_bits": mask_bits,
            "sinks": sinks,
            "alibi_slopes": alibi_slopes,
            "workspace": workspace,
        }
        # Kept in a dict of its own: descriptions borrow the arrays.
        arrays = {name: as_array(array) for name, array in inputs.items() if array is not None}
        scales = {"q_scale": q_scale, "k_scale": k_scale, "v_scale": v_scale}
        scales["out_scale"] = out_scale
        arrays |= {n: as_array(s) for n, s in scales.items() if not isinstance(s, (int, float))}
        outputs = {"out": out} if lse is None else {"out": out, "lse": lse}
        for name, array in outputs.items():
            if not is_gpu_array(array):
                require_writable(name, array)
        q, k, v = as_array(q), as_array(k), as_array(v)
        q_lens, kv_lens = as_array(q_lens), as_array(kv_lens)
        if not self._on_cpu and stream is None:
            stream = current_stream(q)
        self._plan.run(
            self._describe("q", q),
            self._describe_kv("k", k),
            self._describe_kv("v", v),
            self._describe("q_lens", q_lens),
            self._describe("kv_lens", kv_lens),
            **{name: self._describe(name, array) for name, array in outputs.items()},
            **{name: self._describe(name, array) for name, array in arrays.items()},
            **{n: float(s) for n, s in scales.items() if n not in arrays},
            stream=stream,
        )

    def _describe(self, name: str, array: Any) -> Description:
        # A GPU's plan asks the driver where memory is; the CPU's would just read it.
        if self._on_cpu and device_of(array) != "cpu":
            raise InvalidArgumentError(f"{name} is on {device_of(array)}: the plan runs on cpu")
        return describe(name, array)

    def _describe_kv(self, name: str, array: Any) -> Description:
        address, dtype, shape, strides = self._describe(name, array)
        if len(shape) == 3:
            return address, dtype, (1, *shape), (0, *strides)
        if len(shape) != 4:
            raise InvalidArgumentError(f"{name} has {len(shape)} dimensions: must have 3 or 4")
        order = (0, 2, 1, 3) if self._hnd else (0, 1, 2, 3)
        return address, dtype, tuple(shape[i] for i in order), tuple(strides[i] for i in order)


def plan(problem: str, *, kernel: str = "", device: str = "cpu") -> Plan:
    """Selects a kernel for a problem in its text form, or takes the one named.

    Raises InvalidProblemError, UnsupportedError or UnavailableError, with the reasons.
    """
    return Plan(problem, kernel=kernel, device=device)


@functools.lru_cache(maxsize=256)
def _remembered(problem: str, kernel: str, forced: str, bounds: Bounds | None, device: str) -> Plan:
    text = problem if bounds is None else f"{problem} {bounds.lengths()}"
    return Plan(text, kernel=kernel, device=device)


def plan_for(problem: str, kernel: str) -> Plan:
    """`plan` on the CPU, remembered."""
    return _remembered(problem, kernel, os.environ.get("OCTAVO_KERNEL", ""), None, "cpu")


def plan_within(problem: str, bounds: Bounds, kernel: str, device: str) -> Plan:
    """`plan` of a problem that lacks its lengths, for all within bounds; remembered."""
    return _remembered(problem, kernel, os.environ.get("OCTAVO_KERNEL", ""), bounds, device)


def wait(device: str) -> None:
    """Waits until the work that the default stream of a GPU has so far is done."""
    _octavo.wait(device, 0)
