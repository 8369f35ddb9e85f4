"""Questions about one text, answered by transformers' `generate` over Octavo's pages, in two rounds.

The text is computed once: later questions share its pages. Shows the columns that were left out, the
pages in use, and the seconds beside transformers' own attention and cache, and that both give the same
tokens in float32.

usage: generate_transformers.py [MODEL]     a folder or a name that transformers loads; by default a
                                            small Llama with random weights, and numbers for words

Exits with 1 if the tokens differ.
"""

import sys
import time

import torch
import transformers

import octavo.transformers

TEXT = (
    "The sea is never quite still. Waves that began in a storm a thousand miles away arrive on a calm "
    "beach, and the sand keeps their shape until the tide returns. People have measured the tides for "
    "centuries, first with a stick and a notebook, later with floats and paper drums, and now from "
    "orbit. The numbers agree: the moon pulls the water, and the water follows.\n\n"
)
ROUNDS = [
    ["Question: Who measured the tides?\nAnswer:"],
    ["Question: What pulls the water?\nAnswer:", "Question: Where do waves begin?\nAnswer:"],
]
NEW_TOKENS = 16


def load(name: str | None, attention: str):
    if name is not None:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            name, attn_implementation=attention, dtype=torch.float32
        )
        return model.eval(), transformers.AutoTokenizer.from_pretrained(name, padding_side="left")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=256, hidden_size=128, intermediate_size=256, num_hidden_layers=4,
        num_attention_heads=8, num_key_value_heads=2, initializer_range=0.2, pad_token_id=0,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    return model.eval(), None


def encoded(tokenizer, prompts: list[str]):
    if tokenizer is not None:
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        return dict(tokenizer(prompts, return_tensors="pt", padding=True))
    ids = [torch.tensor(list(prompt.encode())) for prompt in prompts]
    ids = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_side="left")
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


def timed(model, inputs, **options):
    begin = time.perf_counter()
    tokens = model.generate(
        **inputs, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False, **options
    )
    return tokens[:, -NEW_TOKENS:], time.perf_counter() - begin


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else None
    own, tokenizer = load(name, "sdpa")
    model, _ = load(name, "octavo")
    cache = octavo.transformers.PagedCache(model, pages=512)
    same = True
    for questions in ROUNDS:
        inputs = encoded(tokenizer, [TEXT + question for question in questions])
        columns = cache.start(**inputs)
        tokens, seconds = timed(model, inputs, past_key_values=cache)
        expected, own_seconds = timed(own, inputs)
        same = same and torch.equal(tokens, expected)
        total = inputs["input_ids"].shape[1]
        print(f"{len(questions)} prompts: {columns} of {total} columns were cached; "
              f"{seconds:.2f} s, transformers' own {own_seconds:.2f} s")  # fmt: skip
        for question, answer in zip(questions, tokens, strict=True):
            text = tokenizer.decode(answer) if tokenizer is not None else answer.tolist()
            print(f"  {question.splitlines()[0]} {text!r}")
    statistics = cache.statistics()["causal"]
    print(f"{statistics.in_use} pages in use, {statistics.cached} kept for prompts to come")
    print("the same tokens" if same else "other tokens than transformers' own")
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
