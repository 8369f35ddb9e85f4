"""A tiny Whisper with random weights: an encoder, and a decoder with cross attention."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import torch
import transformers

START = [1, 2, 3, 4]
WORDS = [
    "<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>",
    *(f"w{i}" for i in range(5, 512)),
]  # fmt: skip


def save(folder: Path) -> Path:
    """The model with all that vLLM wants beside it, for two seconds of sound."""
    folder = folder / "whisper"
    if folder.exists():
        return folder
    folder.mkdir()
    config = transformers.WhisperConfig(
        vocab_size=len(WORDS), d_model=128, encoder_layers=2, decoder_layers=3,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=128,
        decoder_ffn_dim=128, max_source_positions=100, max_target_positions=128, pad_token_id=0,
        bos_token_id=0, eos_token_id=0, decoder_start_token_id=START[0], suppress_tokens=[],
        begin_suppress_tokens=[],
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.WhisperForConditionalGeneration(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "conv" not in name and "encoder.embed" not in name:
                weight.normal_(0, 0.15)
    model.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(WORDS)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.WhisperTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": WORDS[1:5]})
    features = transformers.WhisperFeatureExtractor(chunk_length=2)
    transformers.WhisperProcessor(features, tokenizer).save_pretrained(folder)
    return folder


def sounds() -> list[numpy.ndarray]:
    """Noise of different lengths, 16,000 samples a second."""
    random = numpy.random.default_rng(0)
    return [0.1 * random.standard_normal(n).astype(numpy.float32) for n in (32000, 20000, 8000)]


def prompts() -> list[dict]:
    """The sounds, as vLLM takes them."""
    return [
        {
            "encoder_prompt": {"prompt": "", "multi_modal_data": {"audio": (sound, 16000)}},
            "decoder_prompt": {"prompt_token_ids": START},
        }
        for sound in sounds()
    ]


def expected(folder: Path, tokens: list[list[int]]) -> list[list[int]]:
    """transformers' choice of each of the tokens, after those before it."""
    model = transformers.WhisperForConditionalGeneration.from_pretrained(folder).eval()
    features = transformers.WhisperFeatureExtractor.from_pretrained(folder)
    chosen = []
    for sound, ids in zip(sounds(), tokens):
        inputs = features(sound, sampling_rate=16000, return_tensors="pt").input_features
        with torch.no_grad():
            logits = model(inputs, decoder_input_ids=torch.tensor([START + ids])).logits[0]
        chosen.append(logits.argmax(-1)[len(START) - 1 : -1].tolist())
    return chosen
