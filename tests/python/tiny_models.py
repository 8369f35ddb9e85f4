"""Small transformers models with random weights, in which every part of the attention matters; on the
device OCTAVO_TEST_DEVICE, or the CPU."""

import functools
import os

import torch
import transformers

DEVICE = os.environ.get("OCTAVO_TEST_DEVICE", "cpu")

# Logits of up to 7 after four layers of float32; transformers' own attentions differ as much.
CLOSE = {"atol": 2e-5, "rtol": 0}

SHAPE = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 96,
}
SLIDING = ["sliding_attention", "full_attention"] * 2

CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**SHAPE),
    "smollm2": lambda: transformers.LlamaConfig(  # an odd group, tied embeddings
        **SHAPE | {"num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 72},
        tie_word_embeddings=True,
    ),
    "qwen2": lambda: transformers.Qwen2Config(
        **SHAPE, use_sliding_window=True, sliding_window=6, layer_types=SLIDING
    ),
    "mistral": lambda: transformers.MistralConfig(**SHAPE, sliding_window=5),
    "gemma2": lambda: transformers.Gemma2Config(
        **SHAPE, head_dim=16, sliding_window=6, attn_logit_softcapping=2.0, layer_types=SLIDING
    ),
    "gemma3": lambda: transformers.Gemma3TextConfig(
        **SHAPE, head_dim=16, sliding_window=6, layer_types=SLIDING
    ),
    "gpt-oss": lambda: transformers.GptOssConfig(
        **SHAPE,
        head_dim=16,
        sliding_window=6,
        layer_types=SLIDING,
        num_local_experts=4,
        num_experts_per_tok=2,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    ),
    "llama4": lambda: transformers.Llama4TextConfig(  # chunks
        **SHAPE,
        head_dim=16,
        intermediate_size_mlp=64,
        attention_chunk_size=7,
        layer_types=["chunked_attention", "full_attention"] * 2,
        no_rope_layers=[1, 0, 1, 0],
        num_local_experts=2,
        moe_layers=[],
    ),
}


def model(name, attention, dtype=torch.float32):
    """The same weights whatever the attention."""
    torch.manual_seed(7)
    config = CONFIGS[name]()
    made = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation=attention, dtype=dtype
    ).eval()
    made.generation_config.eos_token_id = None  # as many tokens as are asked for
    for parameter_name, parameter in made.named_parameters():
        if parameter_name.endswith("sinks"):
            torch.nn.init.normal_(parameter, std=2.0)
    return made.to(DEVICE)


@functools.cache
def models(name):
    """On transformers' plain attention, and on Octavo."""
    return model(name, "eager"), model(name, "octavo")


def batch(lengths, side="left", seed=0):
    """Token ids and padding mask of prompts of these lengths."""
    tokens = torch.randint(2, 96, (len(lengths), max(lengths)),
                           generator=torch.Generator().manual_seed(seed))
    columns = torch.arange(max(lengths))
    lengths = torch.tensor(lengths)[:, None]
    seen = columns < lengths if side == "right" else columns >= max(lengths) - lengths
    inputs = {"input_ids": tokens.where(seen, 0), "attention_mask": seen.long()}
    return {name: tensor.to(DEVICE) for name, tensor in inputs.items()}


def position_ids(attention_mask):
    return (attention_mask.cumsum(-1) - 1).clamp(min=0)


def logits(model, inputs, **options):
    with torch.no_grad():
        return model(**inputs, position_ids=position_ids(inputs["attention_mask"]), **options).logits


def generated(model, inputs, tokens=8, **options):
    """Sequences, and the logits that each new token came from."""
    done = model.generate(
        **inputs,
        max_new_tokens=tokens,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        **options,
    )
    return done.sequences, torch.stack(done.logits)
