"""vLLM on the CPU, served by Octavo and by its own attention in turns: tokens a second, and what share of
the time is attention.

usage: serving.py FOLDER [--runs N] [--requests 1,16] [--prompt N] [--new N] [--json FILE]

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
# vLLM's own attention is quickest with its own default of tokens a page, 128.
PAGE = {OWN: 128, OCTAVO: 16}


class Attention:
    """Seconds in the methods of vLLM's attention: K and V into the cache, a step's plan, the layers."""

    def __init__(self, backend) -> None:
        self.seconds = 0.0
        impl, builder = backend.get_impl_cls(), backend.get_builder_cls()
        for owner, name in ((impl, "forward"), (impl, "do_kv_cache_update"), (builder, "build")):
            setattr(owner, name, self._timed(getattr(owner, name)))

    def _timed(self, method):
        def timed(*arguments, **named):
            begin = time.perf_counter()
            try:
                return method(*arguments, **named)
            finally:
                self.seconds += time.perf_counter() - begin

        return timed


def measure(options: argparse.Namespace) -> list[dict]:
    """In this process; OCTAVO_VLLM says on whose attention."""
    import torch
    from vllm import LLM, SamplingParams
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    octavo = os.environ["OCTAVO_VLLM"] == "1"
    llm = LLM(
        str(options.folder),
        dtype=options.dtype,
        max_model_len=options.prompt + options.new,
        max_num_seqs=max(options.requests),
        block_size=PAGE[OCTAVO if octavo else OWN],
        enable_prefix_caching=False,
        enforce_eager=True,
        seed=0,
    )
    attention = Attention(AttentionBackendEnum.CPU_ATTN.get_class())
    generator = torch.Generator().manual_seed(0)
    results = []
    for requests in options.requests:
        ids = torch.randint(100, 1000, (requests, options.prompt), generator=generator)
        prompts = [{"prompt_token_ids": row.tolist()} for row in ids]
        result = {"requests": requests}
        for phase, new in (("warm", 2), ("prefill", 1), ("whole", options.new)):
            attention.seconds = 0.0
            parameters = SamplingParams(
                temperature=0, max_tokens=new, ignore_eos=True, detokenize=False
            )
            begin = time.perf_counter()
            llm.generate(prompts, parameters, use_tqdm=False)
            result[phase] = time.perf_counter() - begin
            result[f"{phase}_attention"] = attention.seconds
        results.append(result)
    return results


def in_process(octavo: bool) -> list[dict]:
    environment = os.environ | {
        "OCTAVO_VLLM": str(int(octavo)),
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
    }
    command = [sys.executable, __file__, "--measure", *sys.argv[1:]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"a run failed:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def report(options: argparse.Namespace, runs: dict[str, list[list[dict]]]) -> None:
    print("requests  attention    prompt tok/s  new tok/s  generated/s  in attention: prompt    new")
    for index, requests in enumerate(options.requests):
        medians = {}
        for name, all_runs in runs.items():
            cases = [run[index] for run in all_runs]
            values = {key: statistics.median(case[key] for case in cases) for key in cases[0]}
            decode = values["whole"] - values["prefill"]
            share = (values["whole_attention"] - values["prefill_attention"]) / decode
            medians[name] = values["whole"]
            print(
                f"{requests:8}  {name:10}  {requests * options.prompt / values['prefill']:13.0f}"
                f"  {requests * (options.new - 1) / decode:9.1f}"
                f"  {requests * options.new / values['whole']:11.1f}"
                f"  {values['prefill_attention'] / values['prefill']:20.1%}  {share:5.1%}"
            )
        pairs = zip(runs[OWN], runs[OCTAVO], strict=True)
        ratios = [own[index]["whole"] / ours[index]["whole"] for own, ours in pairs]
        print(f"          whole job, {OWN} / Octavo by pairs: {' '.join(f'{r:.2f}' for r in ratios)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--requests", type=lambda t: [int(n) for n in t.split(",")], default=[1, 16])
    parser.add_argument("--prompt", type=int, default=1000)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options)))
        return
    runs: dict[str, list[list[dict]]] = {OWN: [], OCTAVO: []}
    for _ in range(options.runs):
        for name, done in runs.items():
            done.append(in_process(name == OCTAVO))
    report(options, runs)
    if options.json:
        options.json.write_text(json.dumps(runs, indent=1))


if __name__ == "__main__":
    main()
