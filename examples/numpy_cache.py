"""octavo.KVCache with numpy alone: a second question finds the pages of the text that both begin with.

One layer: K is rotated by its position as it is stored, Q before it is used.
Every result is compared with a softmax written out in float64.

usage: numpy_cache.py     exits with 1 if a result is off
"""

import sys

import numpy as np

import octavo

HQ, HKV, D, VOCABULARY = 8, 2, 32, 256
RNG = np.random.default_rng(0)
# What a layer's projections would make of a token.
Q, K, V = (RNG.standard_normal((VOCABULARY, h, D), np.float32) for h in (HQ, HKV, HKV))
ROPE = octavo.Rope(octavo.rope_table(1024, D))

TEXT = "The moon pulls the water, and the water follows. Twice a day it comes, and twice it goes. "
QUESTIONS = ["What pulls the water?", "How often does it come?"]


def rotated(x: np.ndarray, first: int = 0) -> np.ndarray:
    x = x.copy()
    octavo.rotate(x, ROPE, np.arange(first, first + len(x)))
    return x


def ask(cache: octavo.KVCache, tokens: np.ndarray) -> tuple[np.ndarray, int]:
    """The attention of the prompt's tokens that are not cached, and how many were."""
    request, cached = cache.admit(tokens)
    new = tokens[cached:]
    cache.append([request], K[new], V[new], rope=ROPE)
    page_table, kv_lens = cache.tables([request])
    out = octavo.attention(
        rotated(Q[new], cached), cache.k(), cache.v(),
        q_lens=[len(new)], kv_lens=kv_lens, page_table=page_table, mask="causal",
    )  # fmt: skip
    cache.free(request)  # its full pages stay until their room is needed
    return out, cached


def expected(tokens: np.ndarray) -> np.ndarray:
    q, k, v = rotated(Q[tokens]), rotated(K[tokens]), V[tokens]
    k, v = (np.repeat(x.astype(np.float64), HQ // HKV, axis=1) for x in (k, v))
    scores = np.einsum("qhd,khd->hqk", q, k) / D**0.5
    scores[:, ~np.tri(len(tokens), dtype=bool)] = -np.inf
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.einsum("hqk,khd->qhd", weights / weights.sum(axis=-1, keepdims=True), v)


def main() -> None:
    cache = octavo.KVCache(pages=32, page_size=16, hkv=HKV, d=D)
    worst = 0.0
    for question in QUESTIONS:
        tokens = np.frombuffer((TEXT + question).encode(), np.uint8).astype(np.int32)
        out, cached = ask(cache, tokens)
        worst = max(worst, np.abs(out - expected(tokens)[cached:]).max())
        print(f"{question!r}: {cached} of {len(tokens)} tokens were cached")
    print(f"hit rate {cache.statistics().hit_rate:.0%}, largest distance from the definition {worst:.1e}")
    sys.exit(0 if worst < 1e-5 else 1)


if __name__ == "__main__":
    main()
