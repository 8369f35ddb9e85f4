"""Octavo beside vLLM's CPU attention and PyTorch's scaled_dot_product_attention, in one process.

    python bench/peers.py                                 every case of cases.txt
    python bench/peers.py --match decode --json out.json  those with "decode" in their name

Every implementation runs each case on the same numbers and threads, in turns, round after round.
Times are medians of calls from Python, without what an engine does once per batch: Octavo's plan
and vLLM's schedule. Peers keep K and V as they like them: vLLM in blocks of 128 tokens, PyTorch
dense, with requests of equal lengths as one batch. Results must agree with Octavo's, or the exit
code is 1.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

sys.path.insert(0, str(Path(__file__).parent))

import cases  # noqa: E402
from cases import Case  # noqa: E402

DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
DTYPES |= {"e4m3": "float8_e4m3fn", "e5m2": "float8_e5m2"}
# Of a row's error to its norm: several times what rounding makes of it.
BOUNDS = {"f32": 1e-4, "f16": 5e-3, "bf16": 4e-2, "e4m3": 3e-1, "e5m2": 6e-1}


class Refusal(Exception):
    """A peer cannot do a case; says why."""


class Runner(Protocol):
    """An implementation, ready for one case; its constructor may raise Refusal."""

    def run(self) -> None: ...

    def result(self) -> Any:
        """The output of the last run, [total_q, hq, dv]."""


def torch_dtype(name: str) -> Any:
    import torch

    return getattr(torch, DTYPES[name])


class Data:
    """The random numbers of a case: q [total_q, hq, d], k and v [total_kv, hkv, d]."""

    def __init__(self, case: Case, seed: int = 0) -> None:
        import torch

        generator = torch.Generator().manual_seed(seed)

        def normal(dtype: str, *shape: int) -> Any:
            return torch.randn(*shape, generator=generator).to(torch_dtype(dtype))

        total_kv = sum(case.kv_lens)
        self.q = normal(case.q, sum(case.q_lens), case.hq, case.d)
        self.k = normal(case.kv, total_kv, case.hkv, case.d)
        self.v = normal(case.kv, total_kv, case.hkv, case.dv)
        self.q_lens = torch.tensor(case.q_lens, dtype=torch.int32)
        self.kv_lens = torch.tensor(case.kv_lens, dtype=torch.int32)
        self.sinks = normal("f32", case.hq) if "sinks" in case.words else None
        self.slopes = None
        if "alibi" in case.words:
            self.slopes = 2.0 ** (-8.0 * torch.arange(1, case.hq + 1) / case.hq)


def paging(kv_lens: list[int], page: int, seed: int = 0) -> tuple[Any, Any]:
    """A page table [requests, columns] of shuffled pages, and the slot of every token."""
    import torch

    columns = [-(-n // page) for n in kv_lens]
    pages = torch.randperm(sum(columns), generator=torch.Generator().manual_seed(seed))
    table = torch.zeros(len(kv_lens), max(columns), dtype=torch.int32)
    slots, first = [], 0
    for request, (count, kv_len) in enumerate(zip(columns, kv_lens)):
        own = pages[first : first + count]
        table[request, :count] = own
        slots.append((own[:, None] * page + torch.arange(page)).reshape(-1)[:kv_len])
        first += count
    return table, torch.cat(slots)


class Octavo:
    """Reads K and V from pages as the case says."""

    def __init__(self, case: Case, data: Data) -> None:
        import torch

        import octavo

        if not case.problem.startswith("paged") or "lse" in case.words:
            raise ValueError(f"{case.name}: only paged problems without lse are measured")
        self.plan = octavo.plan(case.problem)
        table, slots = paging(case.kv_lens, case.page)
        pages = int(table.max()) + 1

        def pool(tokens: Any) -> Any:
            shape = (pages * case.page, *tokens.shape[1:])
            flat = torch.zeros(shape, dtype=tokens.dtype)
            bytes_of(flat)[slots] = bytes_of(tokens)
            flat = flat.view(pages, case.page, *tokens.shape[1:])
            return flat.transpose(1, 2).contiguous() if case.words.get("order") == "hnd" else flat

        self.k, self.v = pool(data.k), pool(data.v)
        if case.words.get("pool") != "split":
            joint = torch.stack((self.k, self.v), dim=1)
            self.k, self.v = joint[:, 0], joint[:, 1]
        self.q = data.q
        self.out = torch.empty(len(data.q), case.hq, case.dv, dtype=torch_dtype(case.out))
        self.others = {
            "q_lens": data.q_lens,
            "kv_lens": data.kv_lens,
            "page_table": table,
            "sinks": data.sinks,
            "alibi_slopes": data.slopes,
        }

    def run(self) -> None:
        self.plan.run(self.q, self.k, self.v, out=self.out, **self.others)

    def result(self) -> Any:
        return self.out


def bytes_of(tensor: Any) -> Any:
    """Operations on fp8 tensors are few: those that only move values see bytes."""
    import torch

    return tensor.view(torch.uint8) if tensor.dtype.itemsize == 1 else tensor


class Vllm:
    """vLLM's CPU attention, called as its backend CPU_ATTN calls it."""

    BLOCK = 128

    def __init__(self, case: Case, data: Data) -> None:
        import torch
        from vllm import _custom_ops as ops
        from vllm import envs
        from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend, _get_attn_isa

        fp8 = case.kv in ("e4m3", "e5m2")
        kind, _, numbers = case.mask.partition(":")
        left, right = map(int, numbers.split(",")) if kind == "window" else (-1, 0)
        if kind not in ("none", "causal", "window") or right != 0:
            raise Refusal(f"mask={case.mask}")
        if case.dv != case.d or case.d not in CPUAttentionBackend.get_supported_head_sizes():
            raise Refusal(f"d={case.d} dv={case.dv}")
        if case.q in ("e4m3", "e5m2") or case.out != case.q or (case.kv != case.q and not fp8):
            raise Refusal(f"q={case.q} kv={case.kv} out={case.out}")
        self.call = ops.cpu_attention_with_kv_cache
        cache_dtype = f"fp8_{case.kv}" if fp8 else "auto"
        try:
            isa = _get_attn_isa(data.q.dtype, self.BLOCK, case.d, cache_dtype)
        except NotImplementedError as error:
            raise Refusal(str(error)) from None
        table, slots = paging(case.kv_lens, self.BLOCK)
        shape = (int(table.max()) + 1, case.hkv, 2 * self.BLOCK, case.d)
        cache = torch.zeros(shape, dtype=torch.uint8 if fp8 else data.q.dtype)
        keys, values = cache.chunk(2, dim=2)
        ops.cpu_attn_reshape_and_cache(
            data.k.to(data.q.dtype),
            data.v.to(data.q.dtype),
            keys,
            values,
            slots,
            isa,
            kv_cache_dtype=cache_dtype,
        )
        starts = torch.zeros(len(case.q_lens) + 1, dtype=torch.int32)
        starts[1:] = data.q_lens.cumsum(0)
        shared = {
            "seq_lens": data.kv_lens,
            "query_start_loc": starts,
            "causal": kind != "none",
            "kv_cache_dtype": cache_dtype,
        }
        window = left + 1 if kind == "window" and left >= 0 else -1
        schedule = ops.cpu_attn_get_scheduler_metadata(
            num_reqs=len(case.q_lens),
            num_heads=case.hq,
            num_kv_heads=case.hkv,
            head_dim=case.d,
            dtype=data.q.dtype,
            sliding_window_size=window,
            isa=isa,
            enable_kv_split=envs.VLLM_CPU_ATTN_SPLIT_KV,
            **shared,
        )
        self.out = torch.empty_like(data.q)
        self.arguments = shared | {
            "query": data.q,
            "key_cache": keys,
            "value_cache": values,
            "output": self.out,
            "scale": case.scale,
            "alibi_slopes": data.slopes,
            "sliding_window": window,
            "block_table": table,
            "softcap": float(case.words.get("cap", 0)),
            "scheduler_metadata": schedule,
            "s_aux": data.sinks,
        }

    def run(self) -> None:
        self.call(**self.arguments)

    def result(self) -> Any:
        return self.out


class Sdpa:
    """PyTorch's scaled_dot_product_attention on dense tensors, [requests, heads, tokens, d]."""

    def __init__(self, case: Case, data: Data) -> None:
        for flag in ("cap", "sinks", "alibi"):
            if flag in case.words:
                raise Refusal(flag)
        if case.q not in ("f32", "f16", "bf16") or {case.kv, case.out} != {case.q}:
            raise Refusal(f"q={case.q} kv={case.kv} out={case.out}")
        self.case = case
        self.groups: dict[tuple[int, int], list[int]] = {}  # requests by their lengths
        for request, lengths in enumerate(zip(case.q_lens, case.kv_lens)):
            self.groups.setdefault(lengths, []).append(request)
        self.calls, self.outs = [], []
        q, k, v = (
            tensor.split(lengths)
            for tensor, lengths in (
                (data.q, case.q_lens),
                (data.k, case.kv_lens),
                (data.v, case.kv_lens),
            )
        )
        for (q_len, kv_len), requests in self.groups.items():
            batch = (stack([x[r] for r in requests]) for x in (q, k, v))
            # Top-left and bottom-right causal masks are the same one only for equal lengths.
            own_causal = case.mask == "causal" and q_len == kv_len
            mask = None if own_causal else self.additive_mask(q_len, kv_len, data.q.dtype)
            self.calls.append((*batch, {"attn_mask": mask, "is_causal": own_causal}))

    def additive_mask(self, q_len: int, kv_len: int, dtype: Any) -> Any:
        """None where every query sees every key."""
        import torch

        low, high = map(torch.from_numpy, self.case.visible(q_len, kv_len))
        if bool((low == 0).all()) and bool((high == kv_len).all()):
            return None
        keys = torch.arange(kv_len)
        hidden = (keys < low[:, None]) | (keys >= high[:, None])
        return torch.zeros(q_len, kv_len, dtype=dtype).masked_fill_(hidden, float("-inf"))

    def run(self) -> None:
        import torch

        gqa = self.case.hq != self.case.hkv
        attend = torch.nn.functional.scaled_dot_product_attention
        self.outs = [
            attend(q, k, v, scale=self.case.scale, enable_gqa=gqa, **mask)
            for q, k, v, mask in self.calls
        ]

    def result(self) -> Any:
        import torch

        rows: list[Any] = [None] * len(self.case.q_lens)
        for out, requests in zip(self.outs, self.groups.values()):
            for request, one in zip(requests, out):
                rows[request] = one.transpose(0, 1)
        return torch.cat(rows)


def stack(requests: list[Any]) -> Any:
    """[tokens, heads, d] of each request as a dense [requests, heads, tokens, d]."""
    import torch

    return torch.stack(requests).transpose(1, 2).contiguous()


def find_peers() -> tuple[dict[str, type[Runner]], dict[str, str]]:
    """The peers that can be imported, and why not the others."""
    found: dict[str, type[Runner]] = {"PyTorch SDPA": Sdpa}
    missing: dict[str, str] = {}
    try:
        from vllm import _custom_ops  # noqa: F401
        from vllm.platforms import current_platform

        current_platform.import_kernels()
        if not current_platform.is_cpu():
            raise ImportError("vLLM is not built for the CPU")
        found["vLLM"] = Vllm
    except Exception as error:  # its import runs much else that may fail
        missing["vLLM"] = str(error)
    return found, missing


def seconds(runner: Runner) -> float:
    start = time.perf_counter()
    runner.run()
    return time.perf_counter() - start


def medians(runners: dict[str, Runner], rounds: int) -> dict[str, float]:
    """Seconds of a run. Each round gives each runner a turn of one run or more."""
    guess = {name: min(seconds(runner) for _ in range(2)) for name, runner in runners.items()}
    times: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(rounds):
        for name, runner in runners.items():
            time.sleep(0.02)  # until the threads of the runner before sleep, too
            seconds(runner)  # wakes its own, and fetches its data
            runs = max(1, min(200, int(0.05 / guess[name])))
            times[name] += [seconds(runner) for _ in range(runs)]
    return {name: statistics.median(each) for name, each in times.items()}


def row_error(result: Any, expected: Any) -> float:
    """The largest error of a row, [token, head], in terms of its norm."""
    result, expected = result.float(), expected.float()
    error = (result - expected).norm(dim=-1) / expected.norm(dim=-1).clamp_min(1e-6)
    return float(error.nan_to_num(float("inf")).max())


def compare(
    case: Case, limits: dict, peers: dict[str, type[Runner]], rounds: int = 5
) -> dict[str, Any]:
    """One case's times, rates and shares of the limits, as peers.py saves them."""
    data = Data(case)
    ours = Octavo(case, data)
    runners: dict[str, Runner] = {"Octavo": ours}
    refused = {}
    for name, peer in peers.items():
        try:
            runners[name] = peer(case, data)
        except Refusal as reason:
            refused[name] = {"refused": str(reason)}
    times = medians(runners, rounds)
    flops, kv_bytes = case.work()
    least, memory = cases.floor(case, limits)
    row: dict[str, Any] = {
        "name": case.name,
        "problem": case.problem,
        "kernel": ours.plan.kernel,
        "us": 1e6 * times["Octavo"],
        "gflops": 1e-9 * flops / times["Octavo"],
        "kv_gbs": 1e-9 * kv_bytes / times["Octavo"],
        "bound": "memory" if memory else "compute",
        "floor_us": 1e6 * least,
        "share": least / times["Octavo"],
        "peers": refused,
    }
    for name in runners.keys() - {"Octavo"}:
        error = row_error(runners[name].result(), ours.result())
        row["peers"][name] = {
            "us": 1e6 * times[name],
            "share": least / times[name],
            "error": error,
            "agrees": error <= BOUNDS[case.out],
        }
    rivals = [times[name] for name in times if name != "Octavo"]
    row["speedup"] = min(rivals) / times["Octavo"] if rivals else None
    return row


def head(names: Iterable[str], width: int) -> str:
    text = f"{'case':{width}}  {'kernel':18} {'us':>11}  {'rate':>16}  {'of limit':>8}"
    return text + "".join(f"  {name + ' us':>15}" for name in names) + f"  {'x best':>6}"


def line(row: dict[str, Any], names: Iterable[str], width: int) -> str:
    memory = row["bound"] == "memory"
    rate = f"{row['kv_gbs']:8.1f} GB/s   " if memory else f"{row['gflops']:8.1f} GFLOP/s"
    text = f"{row['name']:{width}}  {row['kernel']:18} {row['us']:11.1f}  {rate}"
    text += f"  {row['share']:8.1%}"
    for name in names:
        peer = row["peers"].get(name, {})
        time_us = f"{peer['us']:.1f}" if "us" in peer else "-"
        text += f"  {time_us + ('' if peer.get('agrees', True) else ' WRONG'):>15}"
    return text + (f"  {row['speedup']:6.2f}" if row["speedup"] else f"  {'-':>6}")


def ask(octavo: str, *words: str) -> Any:
    done = subprocess.run([octavo, *words, "--json"], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{octavo} {' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
    return json.loads(done.stdout)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=Path, default=Path(__file__).with_name("cases.txt"))
    parser.add_argument("--match", default="", help="only cases with the text in their name")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="a file for everything measured")
    parser.add_argument(
        "--octavo",
        default=str(Path(sys.executable).with_name("octavo")),
        help="the command line, which measures the limits",
    )
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    chosen = [c for c in cases.read(arguments.cases) if arguments.match in c.name]
    if not chosen:
        sys.exit(f"{arguments.cases}: no case matches")
    for variable in ("OCTAVO_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ[variable] = str(arguments.threads)
    import torch

    import octavo

    torch.set_num_threads(arguments.threads)
    peers, missing = find_peers()
    limits = ask(arguments.octavo, "bench", "--limits")
    report: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "command": shlex.join(["python", "bench/peers.py", *sys.argv[1:]]),
        "machine": limits["device"],
        "threads": arguments.threads,
        "versions": {"octavo": octavo.__version__, "torch": torch.__version__},
        "limits": limits,
        "missing": missing,
        "cases": [],
    }
    if "vLLM" in peers:
        import vllm

        report["versions"]["vllm"] = vllm.__version__
    print(f"{report['date']}, {report['machine']}, {arguments.threads} threads")
    print(", ".join(f"{name} {version}" for name, version in report["versions"].items()))
    for name, why in missing.items():
        print(f"{name} is missing: {why}")
    width = max(len(case.name) for case in chosen)
    print(head(peers, width))
    for case in chosen:
        report["cases"].append(compare(case, limits, peers, arguments.rounds))
        print(line(report["cases"][-1], peers, width), flush=True)
    if any(row["bound"] == "compute" and row["share"] > 1 for row in report["cases"]):
        print("More than the processor can do: other work ran while the limits were measured.")
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    agree = all(
        peer.get("agrees", True) for row in report["cases"] for peer in row["peers"].values()
    )
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
