"""vLLM on the CPU, served by Octavo and by its own attention in turns: tokens a second, and what share of
the time is attention.

usage: serving.py FOLDER [--runs N] [--requests 1,16] [--prompt N] [--new N] [--dtype D] [--page N]
                  [--json FILE] [--processor-time]

FOLDER holds a model, as examples/serve_smollm2.py converts it. Each run is a process of its own; runs of the
two alternate. Prompts are random tokens, so that nothing is shared, and all requests begin at once.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

OWN, OCTAVO = "CPU_ATTN", "Octavo"


class Steps:
    """Seconds of an engine's steps, and of the methods of vLLM's attention in them: the plan of a step, K and
    V into the cache, the layers. Steps that compute a prompt's tokens are apart from those that do not."""

    def __init__(self, backend, clock) -> None:
        self._clock = clock
        self.clear()
        impl, builder = backend.get_impl_cls(), backend.get_builder_cls()
        builder.build = self._timed(builder.build, self._begin)
        for name in ("forward", "do_kv_cache_update"):
            setattr(impl, name, self._timed(getattr(impl, name)))

    def clear(self) -> None:
        self.seconds = {"prompt": 0.0, "new": 0.0}
        self.attention = {"prompt": 0.0, "new": 0.0}
        self._kind, self._since = "", 0.0

    def end(self) -> None:
        """A step ends where the next one is planned."""
        now = self._clock()
        if self._kind:
            self.seconds[self._kind] += now - self._since
        self._since = now

    def _begin(self, builder, common_prefix_len, batch, *_, **__) -> None:
        self.end()
        self._kind = "prompt" if batch.max_query_len > 1 else "new"

    def _timed(self, method, before=None):
        def timed(*arguments, **named):
            if before is not None:
                before(*arguments, **named)
            begin = self._clock()
            result = method(*arguments, **named)
            if self._kind:
                self.attention[self._kind] += self._clock() - begin
            return result

        return timed


def measure(options: argparse.Namespace) -> list[dict]:
    """In this process; OCTAVO_VLLM says on whose attention."""
    import torch
    from vllm import LLM, SamplingParams
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    llm = LLM(
        str(options.folder),
        dtype=options.dtype,
        max_model_len=options.prompt + options.new,
        max_num_seqs=max(options.requests),
        block_size=options.page,
        enable_prefix_caching=False,
        enforce_eager=True,
        seed=0,
    )
    clock = time.thread_time if options.processor_time else time.perf_counter
    steps = Steps(AttentionBackendEnum.CPU_ATTN.get_class(), clock)
    generator = torch.Generator().manual_seed(0)

    def generate(requests: int, prompt: int, new: int) -> float:
        ids = torch.randint(100, 1000, (requests, prompt), generator=generator)
        parameters = SamplingParams(
            temperature=0, max_tokens=new, ignore_eos=True, detokenize=False
        )
        steps.clear()
        begin = clock()
        llm.generate([{"prompt_token_ids": row.tolist()} for row in ids], parameters, use_tqdm=False)
        seconds = clock() - begin
        steps.end()
        return seconds

    results = []
    for requests in options.requests:
        generate(requests, 32, 8)
        whole = generate(requests, options.prompt, options.new)
        result = {"whole": whole}
        for kind, seconds in steps.seconds.items():
            result |= {kind: seconds, f"{kind} attention": steps.attention[kind]}
        results.append(result)
    return results


def in_process(octavo: bool, one_thread: bool) -> list[dict]:
    environment = os.environ | {
        "OCTAVO_VLLM": str(int(octavo)),
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
    }
    if one_thread:
        environment |= {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    command = [sys.executable, __file__, "--measure", *sys.argv[1:]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"a run failed:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def report(options: argparse.Namespace, runs: dict[str, list[list[dict]]]) -> None:
    print("                      tokens/s                 share of attention")
    print("requests  attention   prompt    new   whole    prompt     new   whole")
    for index, requests in enumerate(options.requests):
        for name, all_runs in runs.items():
            cases = [run[index] for run in all_runs]
            s = {key: statistics.median(case[key] for case in cases) for key in cases[0]}
            shares = [s["prompt attention"] / s["prompt"], s["new attention"] / s["new"]]
            shares.append((s["prompt attention"] + s["new attention"]) / s["whole"])
            print(
                f"{requests:8}  {name:9}  {requests * options.prompt / s['prompt']:7.0f}"
                f"  {requests * (options.new - 1) / s['new']:5.1f}"
                f"  {requests * options.new / s['whole']:6.2f}  "
                + "".join(f"  {share:6.1%}" for share in shares)
            )
        for part in ("whole", "new", "new attention", "prompt attention"):
            pairs = zip(runs[OWN], runs[OCTAVO], strict=True)
            ratios = sorted(own[index][part] / ours[index][part] for own, ours in pairs)
            print(f"          {OWN} / {OCTAVO}, {part}: {' '.join(f'{r:.2f}' for r in ratios)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--requests", type=lambda t: [int(n) for n in t.split(",")], default=[1, 16])
    parser.add_argument("--prompt", type=int, default=1000)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--page", type=int, help="tokens a page of the cache; vLLM's default is 128")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--processor-time", action="store_true")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options)))
        return
    runs: dict[str, list[list[dict]]] = {OWN: [], OCTAVO: []}
    for _ in range(options.runs):
        for name, done in runs.items():
            done.append(in_process(name == OCTAVO, options.processor_time))
    report(options, runs)
    if options.json:
        options.json.write_text(json.dumps(runs, indent=1))


if __name__ == "__main__":
    main()
