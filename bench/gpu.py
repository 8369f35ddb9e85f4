"""Octavo beside PyTorch's FlashAttention-2 and cuDNN, and FlashAttention-3, on one GPU, in one process.

    python bench/gpu.py                                 every case
    python bench/gpu.py --match decode --json out.json  those with "decode" in their name

Each round gives every implementation one run in turn, because a card's clock falls while it works.
Times are medians on the device: after a write of more than the L2 cache where a case has few queries,
as do_bench does; back to back otherwise. Octavo's results must agree with float64, or the exit code is
1. A peer that refuses a case, or is not installed (FlashAttention-3: `pip install fa3_fwd`), has a
dash.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

import octavo

try:
    from fa3_fwd_interface import flash_attn_func
except ImportError:
    flash_attn_func = None

BACKENDS = {"FA2": SDPBackend.FLASH_ATTENTION, "cuDNN": SDPBackend.CUDNN_ATTENTION}
PEERS = ("FA2", "cuDNN", "FA3")
FLUSHED_BYTES = 256 << 20
BOUND = 2e-2  # of an error to the norm of what is expected: several times what bf16 makes of it


class Case(NamedTuple):
    name: str
    batch: int
    q_len: int
    kv_len: int
    hq: int
    hkv: int
    d: int
    causal: bool = True
    page: int = 0  # 0: dense
    by_bytes: bool = False  # judged by the bytes of K and V

    @property
    def flop(self) -> float:
        hidden = self.q_len * (self.q_len - 1) / 2 if self.causal else 0
        return 4 * self.d * self.hq * self.batch * (self.q_len * self.kv_len - hidden)

    @property
    def kv_bytes(self) -> float:
        return 4.0 * self.d * self.hkv * self.batch * self.kv_len


def cases() -> list[Case]:
    found = []
    for d, heads in ((64, 32), (128, 16), (256, 8)):
        for causal in (False, True):
            for length in (2048, 8192, 16384):
                name = f"d={d} {'causal' if causal else 'no mask'} {length // 1024}k"
                found.append(Case(name, 16384 // length, length, length, heads, heads, d, causal))
    for page in (0, 16, 64, 128):
        kind = f"paged {page}" if page else "dense"
        found.append(Case(f"{kind} 2 x 8k, 32/8 d=128", 2, 8192, 8192, 32, 8, 128, page=page))
    found += [
        Case("chunks 4 x (512 on 8k), 32/8 d=128", 4, 512, 8192, 32, 8, 128, page=16),
        Case("prefix hit 32 x (16 on 4k), 32/8 d=128", 32, 16, 4096, 32, 8, 128, page=16, by_bytes=True),
        Case("decode 64 x 8k, 32/8 d=128", 64, 1, 8192, 32, 8, 128, page=16, by_bytes=True),
        Case("decode 16 x 8k, 32/8 d=128", 16, 1, 8192, 32, 8, 128, page=16, by_bytes=True),
        Case("decode 1 x 128k, 32/8 d=128", 1, 1, 131072, 32, 8, 128, page=16, by_bytes=True),
        Case("decode 1 x 8k, 32/8 d=128", 1, 1, 8192, 32, 8, 128, page=16, by_bytes=True),
        Case("prompts 64 x 64, 14/2 d=64", 64, 64, 64, 14, 2, 64, page=16),
        Case("prompts 64 x 128, 32/8 d=128", 64, 128, 128, 32, 8, 128, page=16),
        Case("prompts 64 x 256, 32/8 d=128", 64, 256, 256, 32, 8, 128, page=16),
        Case("prompts 4 x 256, 32/8 d=128", 4, 256, 256, 32, 8, 128, page=16),
    ]
    return found


def octavo_run(case: Case, q: Any, k: Any, v: Any) -> tuple[Callable[[], Any], str]:
    """On q [batch, q_len, hq, d] and dense k and v, which are dealt to pages where the case has them."""
    rows = q.flatten(0, 1)
    out = torch.full_like(rows, float("nan"))
    mask = "causal" if case.causal else "none"
    batch = f"b={case.batch} q_len={case.q_len} kv_len={case.kv_len}"
    heads = f"q=bf16 kv=bf16 hq={case.hq} hkv={case.hkv} d={case.d} mask={mask} {batch}"
    lens = {
        name: torch.full((case.batch,), value, dtype=torch.int32, device="cuda")
        for name, value in (("q_lens", case.q_len), ("kv_lens", case.kv_len))
    }
    if case.page:
        columns = case.kv_len // case.page
        table = torch.randperm(case.batch * columns, device="cuda").int().reshape(case.batch, columns)
        pools = []
        for dense in (k, v):
            pool = torch.empty_like(dense).reshape(-1, case.page, case.hkv, case.d)
            pool[table.flatten().long()] = dense.reshape(pool.shape)
            pools.append(pool)
        k, v = pools
        plan = octavo.plan(f"paged pool=split page={case.page} {heads}", device="cuda:0")
    else:
        table = None
        k, v = k.flatten(0, 1), v.flatten(0, 1)
        plan = octavo.plan(f"ragged {heads}", device="cuda:0")
    workspace = torch.empty(plan.workspace_size, dtype=torch.uint8, device="cuda")
    call = lens | {"page_table": table, "out": out, "workspace": workspace}

    def run() -> Any:
        plan.run(rows, k, v, **call)
        return out

    return run, plan.kernel


def peer_runs(case: Case, q: Any, k: Any, v: Any) -> dict[str, Callable[[], Any]]:
    """Peers on dense tensors. PyTorch's causal masks are top-left ones, FlashAttention-3's as Octavo's."""
    runs: dict[str, Callable[[], Any]] = {}
    if flash_attn_func is not None:
        tokens = q, k, v
        runs["FA3"] = lambda: flash_attn_func(
            *tokens, causal=case.causal, num_splits=0
        ).transpose(1, 2)
    if case.causal and case.q_len not in (1, case.kv_len):
        return runs
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    causal = case.causal and case.q_len > 1
    for name, backend in BACKENDS.items():

        def run(backend: SDPBackend = backend) -> Any:
            with sdpa_kernel(backend):
                gqa = case.hq != case.hkv
                return scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=gqa)

        try:
            run()
        except RuntimeError:
            continue
        runs[name] = run
    return runs


def expected(case: Case, q: Any, k: Any, v: Any) -> Any:
    """The first request's last queries, in float64."""
    rows = min(case.q_len, 128)
    q = q[0, -rows:].double().transpose(0, 1)
    k, v = (x[0].double().transpose(0, 1).repeat_interleave(case.hq // case.hkv, 0) for x in (k, v))
    scores = q @ k.transpose(1, 2) / case.d**0.5
    if case.causal:
        positions = torch.arange(case.kv_len - rows, case.kv_len, device="cuda")[:, None]
        scores.masked_fill_(torch.arange(case.kv_len, device="cuda") > positions, float("-inf"))
    return (scores.softmax(-1) @ v).transpose(0, 1)


def times_of(runs: dict[str, Callable[[], Any]], flush: Any, rounds: int) -> dict[str, float]:
    """Median seconds of each, in turns."""
    events: dict[str, list[Any]] = {name: [] for name in runs}
    for _ in range(3):
        for run in runs.values():
            run()
    for _ in range(rounds):
        for name, run in runs.items():
            if flush is not None:
                flush.zero_()
            pair = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            pair[0].record()
            run()
            pair[1].record()
            events[name].append(pair)
    torch.cuda.synchronize()
    return {
        name: statistics.median(a.elapsed_time(b) * 1e-3 for a, b in each)
        for name, each in events.items()
    }


def graph_time(run: Callable[[], Any], repeats: int = 20) -> float:
    """Seconds of one of many in a graph."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            run()
    return times_of({"graph": graph.replay}, None, 20)["graph"] / repeats


def measure(case: Case) -> dict[str, Any]:
    shape = lambda tokens, heads: (case.batch, tokens, heads, case.d)  # noqa: E731
    q = torch.randn(shape(case.q_len, case.hq), device="cuda", dtype=torch.bfloat16)
    k, v = (
        torch.randn(shape(case.kv_len, case.hkv), device="cuda", dtype=torch.bfloat16)
        for _ in range(2)
    )
    run, kernel = octavo_run(case, q, k, v)
    peers = peer_runs(case, q, k, v)
    wanted = expected(case, q, k, v)
    rows = wanted.shape[0]
    results = {"Octavo": run().unflatten(0, (case.batch, case.q_len))[0, -rows:]}
    results |= {name: peer().transpose(1, 2)[0, -rows:] for name, peer in peers.items()}
    errors = {
        name: ((result.double() - wanted).norm() / wanted.norm()).item()
        for name, result in results.items()
    }
    few = case.by_bytes or case.flop < 1e10
    flush = torch.empty(FLUSHED_BYTES, dtype=torch.int8, device="cuda") if few else None
    rounds = 60 if few else 20
    seconds = times_of({"Octavo": run} | peers, flush, rounds)
    row = {"case": case.name, "kernel": kernel, "errors": errors, "seconds": seconds}
    rate = case.kv_bytes if case.by_bytes else case.flop
    row["rates"] = {name: rate / each * 1e-12 for name, each in seconds.items()}
    row["unit"] = "TB/s" if case.by_bytes else "TFLOP/s"
    if few:
        row["graph_seconds"] = graph_time(run)
    return row


def host_time() -> float:
    """Seconds that the host spends in one call of a plan from Python."""
    case = Case("", 64, 1, 64, 14, 2, 64, page=16)
    q = torch.randn((64, 1, 14, 64), device="cuda", dtype=torch.bfloat16)
    k, v = (torch.randn((64, 64, 2, 64), device="cuda", dtype=torch.bfloat16) for _ in range(2))
    run, _ = octavo_run(case, q, k, v)
    samples = []
    for _ in range(200):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        samples.append(time.perf_counter() - start)
    return statistics.median(samples)


def product_rate() -> float:
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * 8192**3 / times_of({"product": lambda: a @ b}, None, 20)["product"] * 1e-12


def copy_rate() -> float:
    source = torch.empty(2 << 30, dtype=torch.int8, device="cuda")
    target = torch.empty_like(source)
    run = {"copy": lambda: target.copy_(source)}
    return 2 * source.numel() / times_of(run, None, 20)["copy"] * 1e-12


def line(row: dict[str, Any]) -> str:
    rates, seconds = row["rates"], row["seconds"]
    peers = {name: rate for name, rate in rates.items() if name != "Octavo"}
    text = f"{row['case']:40} {row['kernel']:14} {seconds['Octavo'] * 1e6:10.1f}"
    text += f" {row['graph_seconds'] * 1e6:9.1f}" if "graph_seconds" in row else " " * 10
    text += f" {rates['Octavo']:8.2f} {row['unit']:7}"
    for name in PEERS:
        text += f" {peers[name]:8.2f}" if name in peers else f" {'-':>8}"
    return text + (f" {rates['Octavo'] / max(peers.values()):6.2f}" if peers else "")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--match", default="", help="only cases with this text in their name")
    parser.add_argument("--json", help="also write everything to this file")
    options = parser.parse_args()
    torch.manual_seed(0)
    name = torch.cuda.get_device_name()
    print(f"{name}, torch {torch.__version__}, octavo {octavo.__version__}")
    machine = {"product_tflops": product_rate(), "copy_tbs": copy_rate(), "host_us": host_time() * 1e6}
    print("8192^3 bf16 product {product_tflops:.0f} TFLOP/s, copy {copy_tbs:.2f} TB/s, host of a call "
          "from Python {host_us:.1f} us".format(**machine))  # fmt: skip
    print(f"{'case':40} {'kernel':14} {'us':>10} {'graph us':>9} {'rate':>8} {'':7}"
          + "".join(f" {name:>8}" for name in PEERS) + f" {'x best':>6}")  # fmt: skip
    rows, wrong = [], 0
    for case in cases():
        if options.match not in case.name:
            continue
        row = measure(case)
        rows.append(row)
        print(line(row), flush=True)
        if not row["errors"]["Octavo"] < BOUND:
            wrong += 1
            print(f"    WRONG: error {row['errors']['Octavo']:.3g} of the norm")
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"device": name, "machine": machine, "cases": rows}, file, indent=1)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
