"""Runs tiny random models through vLLM in this process, and prints what came out as JSON.

usage: engine.py FOLDER NAME...     OCTAVO_VLLM says on whose attention
"""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}

import torch  # noqa: E402
import transformers  # noqa: E402
from vllm import LLM, SamplingParams  # noqa: E402

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


def models() -> dict:
    """Name: (config, options of LLM)."""
    llama = transformers.LlamaConfig(**COMMON)
    return {
        "gpt-oss": (  # sinks, and a window in every other layer
            transformers.GptOssConfig(
                **COMMON | {"num_attention_heads": 8, "head_dim": 64, "intermediate_size": 64},
                num_local_experts=4,
                num_experts_per_tok=2,
                sliding_window=24,
                rope_scaling=None,
            ),
            {},
        ),
        "gemma2": (  # soft cap and window
            transformers.Gemma2Config(
                **COMMON, sliding_window=24, attn_logit_softcapping=2.0, query_pre_attn_scalar=16
            ),
            {},
        ),
        "bloom": (  # ALiBi
            transformers.BloomConfig(vocab_size=512, hidden_size=128, n_layer=3, n_head=4),
            {},
        ),
        "llama": (llama, {}),
        "llama-page-1": (llama, {"block_size": 1}),
        "llama-chunked-prefill": (llama, {"max_num_batched_tokens": 20, "max_num_seqs": 4}),
        "llama-fp8": (llama, {"kv_cache_dtype": "fp8_e4m3"}),
        "llama-e5m2": (llama, {"kv_cache_dtype": "fp8_e5m2"}),
        "llama-bf16": (llama, {"dtype": "bfloat16"}),
        "llama-f16": (llama, {"dtype": "float16"}),
        "bert": (  # an encoder, to be refused
            transformers.BertConfig(vocab_size=512, hidden_size=128, num_hidden_layers=2,
                                    num_attention_heads=4, intermediate_size=128),
            {},
        ),
    }  # fmt: skip


def save(config, folder: Path) -> None:
    if (folder / "config.json").exists():
        return
    torch.manual_seed(0)
    encoder = config.model_type == "bert"
    auto = transformers.AutoModel if encoder else transformers.AutoModelForCausalLM
    model = auto.from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            # Larger than at the start of a training, so that the attention, and the sinks, matter.
            if "sinks" in name:
                weight.normal_(0, 1.0)
            elif weight.ndim > 1:
                weight.normal_(0, 0.15)
    model.save_pretrained(folder)


def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(7)
    shared = torch.randint(3, 512, (48,), generator=generator).tolist()
    lengths = [1, 9, 17]
    tails = [torch.randint(3, 512, (n,), generator=generator).tolist() for n in lengths]
    return tails + [shared + tail for tail in tails]


def run(folder: Path, name: str) -> dict:
    config, options = models()[name]
    save(config, folder / config.model_type)
    llm = LLM(
        str(folder / config.model_type),
        skip_tokenizer_init=True,
        enforce_eager=True,
        **{
            "dtype": "float32",
            "max_model_len": 256,
            "max_num_seqs": 8,
            "num_gpu_blocks_override": 1024,
            "block_size": 16 if os.environ["OCTAVO_VLLM"] == "1" else 32,
            "enable_prefix_caching": True,
        }
        | options,
    )
    greedy = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True, detokenize=False)
    score = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0, detokenize=False)

    def generate(prompt: list[int], parameters: SamplingParams):
        return llm.generate({"prompt_token_ids": prompt}, parameters, use_tqdm=False)[0]

    results = {"cold": [], "hit": [], "cached": 0, "logprobs": []}
    for prompt in prompts():
        llm.reset_prefix_cache()
        results["cold"].append(list(generate(prompt, greedy).outputs[0].token_ids))
        again = generate(prompt, greedy)
        results["hit"].append(list(again.outputs[0].token_ids))
        results["cached"] += again.num_cached_tokens
        llm.reset_prefix_cache()
        entries = generate(prompt, score).prompt_logprobs[1:]
        results["logprobs"] += [e[t].logprob for e, t in zip(entries, prompt[1:])]
    together = llm.generate(
        [{"prompt_token_ids": prompt} for prompt in prompts()], greedy, use_tqdm=False
    )
    results["together"] = [list(output.outputs[0].token_ids) for output in together]
    return results


def main() -> None:
    results = {}
    for name in sys.argv[2:]:
        try:
            results[name] = run(Path(sys.argv[1]), name)
        except Exception as error:
            results[name] = {"error": f"{type(error).__name__}: {error}"}
        gc.collect()
    print(json.dumps(results))


if __name__ == "__main__":
    main()
