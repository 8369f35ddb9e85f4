"""Runs tiny random models through vLLM in this process, and prints what came out as JSON; the last
line is about all.

usage: engine.py FOLDER NAME...     OCTAVO_VLLM says on whose attention
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import sys
import traceback
from pathlib import Path

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}

import tiny_whisper  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402
from tokenizers.models import WordLevel  # noqa: E402
from vllm import LLM, SamplingParams  # noqa: E402
from vllm.compilation.counter import compilation_counter  # noqa: E402

COMMON = {
    "vocab_size": 512,
    "hidden_size": 192,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


# Not measured, so that engines of several processes can start at once.
MEMORY = {"kv_cache_memory_bytes": 1 << 28, "gpu_memory_utilization": 0.1}

ON_GPU = torch.cuda.is_available()
NGRAMS = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_min": 1, "prompt_lookup_max": 2}

# CUDA graphs of whole steps, and of what is between the attention of two layers.
SIZES = {"cudagraph_capture_sizes": [1, 2, 4, 8, 16, 32, 64]}
WHOLE = {"mode": 0, "cudagraph_mode": "FULL"} | SIZES
PIECES = {"mode": 3, "backend": "eager", "cudagraph_mode": "PIECEWISE"} | SIZES
BOTH = PIECES | {"cudagraph_mode": "FULL_AND_PIECEWISE"}


def graphs(compilation: dict) -> dict:
    return {"enforce_eager": False, "compilation_config": compilation}


@dataclasses.dataclass
class Case:
    config: transformers.PretrainedConfig
    options: dict = dataclasses.field(default_factory=dict)  # of LLM
    # Of the weights: larger than at the start of a training, so that the attention matters.
    spread: float = 0.15
    new_tokens: int = 6
    alone: bool = True  # also generates prompt by prompt, and scores


def cases() -> dict[str, Case]:
    llama = transformers.LlamaConfig(**COMMON)
    # With smaller weights the text repeats itself often, but not always.
    repetitive = {"config": llama, "spread": 0.07, "new_tokens": 40}
    return {
        "gpt-oss": Case(  # sinks, and a window in every other layer
            transformers.GptOssConfig(
                **COMMON | {"num_attention_heads": 8, "head_dim": 64, "intermediate_size": 64},
                num_local_experts=4,
                num_experts_per_tok=2,
                sliding_window=24,
                rope_scaling=None,
            ),
        ),
        "gemma2": Case(  # soft cap and window
            transformers.Gemma2Config(
                **COMMON, sliding_window=24, attn_logit_softcapping=2.0, query_pre_attn_scalar=16
            ),
        ),
        "bloom": Case(  # ALiBi
            transformers.BloomConfig(vocab_size=512, hidden_size=128, n_layer=3, n_head=4),
        ),
        "llama": Case(llama),
        "llama-page-1": Case(llama, {"block_size": 1}),
        "llama-chunked-prefill": Case(llama, {"max_num_batched_tokens": 20, "max_num_seqs": 4}),
        "llama-two-ranks": Case(llama, {"tensor_parallel_size": 2}, alone=False),
        "llama-fp8": Case(llama, {"kv_cache_dtype": "fp8_e4m3"}),
        "llama-e5m2": Case(llama, {"kv_cache_dtype": "fp8_e5m2"}),
        "llama-bf16": Case(llama, {"dtype": "bfloat16"}),
        "llama-bf16-fp8": Case(llama, {"dtype": "bfloat16", "kv_cache_dtype": "fp8_e4m3"}),
        "llama-bf16-graphs": Case(llama, {"dtype": "bfloat16"} | graphs(BOTH)),
        "llama-whole-graphs": Case(llama, graphs(WHOLE)),
        "llama-graphs-in-pieces": Case(llama, graphs(PIECES)),
        "llama-f16": Case(llama, {"dtype": "float16"}),
        "repetitive": Case(**repetitive),
        "repetitive-speculative": Case(**repetitive, options={"speculative_config": NGRAMS}),
        "repetitive-speculative-graphs": Case(
            **repetitive, options={"speculative_config": NGRAMS} | graphs(WHOLE)
        ),
        "bert": Case(
            transformers.BertConfig(vocab_size=512, hidden_size=128, num_hidden_layers=2,
                                    num_attention_heads=4, intermediate_size=128),
        ),
        "modernbert": Case(  # an encoder with a window in two of three layers
            transformers.ModernBertConfig(
                vocab_size=512, hidden_size=128, intermediate_size=128, num_hidden_layers=4,
                num_attention_heads=4, local_attention=16, max_position_embeddings=512,
                pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2,
            ),
        ),
    }  # fmt: skip


def is_encoder(case: Case) -> bool:
    return "bert" in case.config.model_type


def saved(case: Case, folder: Path) -> Path:
    """The folder of a case's model."""
    folder = folder / f"{case.config.model_type}-{case.spread}"
    if (folder / "config.json").exists():
        return folder
    torch.manual_seed(0)
    auto = transformers.AutoModel if is_encoder(case) else transformers.AutoModelForCausalLM
    model = auto.from_config(case.config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "sinks" in name:
                weight.normal_(0, 1.0)
            elif weight.ndim > 1:
                weight.normal_(0, case.spread)
    model.save_pretrained(folder)
    words = WordLevel({f"w{i}": i for i in range(512)}, unk_token="w0")
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(words), pad_token="w0"
    ).save_pretrained(folder)
    return folder


def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(7)
    shared = torch.randint(3, 512, (48,), generator=generator).tolist()
    lengths = [1, 9, 17]
    tails = [torch.randint(3, 512, (n,), generator=generator).tolist() for n in lengths]
    return tails + [shared + tail for tail in tails]


def start(case: Case, folder: Path, **options) -> LLM:
    return LLM(
        str(saved(case, folder)),
        **{
            "dtype": "float32",
            "enforce_eager": True,
            "max_model_len": 256,
            "max_num_seqs": 8,
            "num_gpu_blocks_override": 1024,
            "disable_log_stats": False,
        }
        | backend()
        | options
        | case.options,
    )


def backend() -> dict:
    """The options for Octavo's attention, or for one of vLLM's own."""
    octavo = os.environ["OCTAVO_VLLM"] == "1"
    if not ON_GPU:
        return {"block_size": 16 if octavo else 32}
    name = "CUSTOM" if octavo else "TRITON_ATTN"
    return {"block_size": 16, "attention_backend": name} | MEMORY


def generate(case: Case, folder: Path) -> dict:
    compilation_counter.num_cudagraph_captured = 0
    llm = start(case, folder, skip_tokenizer_init=True, enable_prefix_caching=True)
    greedy = SamplingParams(
        temperature=0, max_tokens=case.new_tokens, ignore_eos=True, detokenize=False
    )
    score = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0, detokenize=False)

    def completed(prompt: list[int], parameters: SamplingParams):
        return llm.generate({"prompt_token_ids": prompt}, parameters, use_tqdm=False)[0]

    results = {"cold": [], "hit": [], "cached": 0, "logprobs": []}
    results["graphs"] = compilation_counter.num_cudagraph_captured
    results["attention"] = attention_of(llm)
    for prompt in prompts() if case.alone else []:
        llm.reset_prefix_cache()
        results["cold"].append(list(completed(prompt, greedy).outputs[0].token_ids))
        again = completed(prompt, greedy)
        results["hit"].append(list(again.outputs[0].token_ids))
        results["cached"] += again.num_cached_tokens
        llm.reset_prefix_cache()
        entries = completed(prompt, score).prompt_logprobs[1:]
        results["logprobs"] += [e[t].logprob for e, t in zip(entries, prompt[1:])]
    together = llm.generate(
        [{"prompt_token_ids": prompt} for prompt in prompts()], greedy, use_tqdm=False
    )
    results["together"] = [list(output.outputs[0].token_ids) for output in together]
    counters = {metric.name: metric for metric in llm.get_metrics()}
    for key in ("draft", "accepted"):
        counter = counters.get(f"vllm:spec_decode_num_{key}_tokens")
        results[key] = 0 if counter is None else counter.value
    return results


def embed(case: Case, folder: Path) -> dict:
    """The first token's embedding of each prompt, and how far it is from transformers' own."""
    llm = start(case, folder, runner="pooling")
    model = transformers.AutoModel.from_pretrained(saved(case, folder), dtype=torch.float32)
    outputs = llm.embed([{"prompt_token_ids": prompt} for prompt in prompts()], use_tqdm=False)
    worst = 0.0
    for prompt, output in zip(prompts(), outputs):
        with torch.no_grad():
            first = model(torch.tensor([prompt])).last_hidden_state[0, 0]
        exact = torch.nn.functional.normalize(first, dim=0)
        worst = max(worst, (torch.tensor(output.outputs.embedding) - exact).abs().max().item())

    return {"worst": worst, "attention": attention_of(llm)}


def attention_modules(model: torch.nn.Module) -> list[str]:
    impls = [type(m.impl) for m in model.modules() if hasattr(m, "impl")]
    return [
        next(c.__module__ for c in impl.__mro__ if c.__name__ != "CrossAttentionImpl") for impl in impls
    ]


def attention_of(llm: LLM) -> list[str]:
    """The modules of what computes the layers' attention, without vLLM's own classes around it."""
    return llm.apply_model(attention_modules)[0]


def transcribe(folder: Path) -> dict:
    """The tokens of three sounds, and those of transformers."""
    folder = tiny_whisper.save(folder)
    llm = LLM(
        str(folder),
        enforce_eager=True,
        dtype="float32",
        max_model_len=100,
        max_num_seqs=4,
        num_gpu_blocks_override=256,
        limit_mm_per_prompt={"audio": 1},
        **backend(),
    )
    parameters = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, detokenize=False)
    outputs = llm.generate(tiny_whisper.prompts(), parameters, use_tqdm=False)
    tokens = [list(output.outputs[0].token_ids) for output in outputs]
    return {
        "tokens": tokens,
        "expected": tiny_whisper.expected(folder, tokens),
        "attention": attention_of(llm),
    }


def run(name: str, folder: Path) -> dict:
    if name == "whisper":
        return transcribe(folder)
    case = cases()[name]
    return (embed if is_encoder(case) else generate)(case, folder)


def main() -> None:
    results = {}
    for name in sys.argv[2:]:
        try:
            results[name] = run(name, Path(sys.argv[1]))
        except Exception as error:
            traceback.print_exc()
            results[name] = {"error": f"{type(error).__name__}: {error}"}
        gc.collect()
        print(json.dumps(results), flush=True)


if __name__ == "__main__":
    main()
