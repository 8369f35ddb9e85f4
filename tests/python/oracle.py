"""Attention straight from its definition, in double precision, one row at a time."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass
class Features:
    mask: str = "none"
    bits: np.ndarray | None = None  # bool [total_q, keys]
    scale: float | None = None
    cap: float | None = None
    sinks: np.ndarray | None = None
    slopes: np.ndarray | None = None


def sees(mask: str, pos: int, j: int) -> bool:
    kind, _, numbers = mask.partition(":")
    if kind == "causal":
        return j <= pos
    if kind == "window":
        left, right = map(int, numbers.split(","))
        return (left < 0 or j >= pos - left) and (right < 0 or j <= pos + right)
    if kind == "chunked":
        chunk = int(numbers)
        return pos // chunk * chunk <= j <= pos
    return True


def attention(q, k, v, q_lens, kv_lens, f: Features = Features()):
    """q [total_q, hq, d]; k, v lists of [kv_len, hkv, d]. Returns out and LSE in float64."""
    q = q.astype(np.float64)
    out = np.zeros((*q.shape[:2], v[0].shape[-1]))
    lse = np.full(q.shape[:2], -np.inf)
    row = 0
    for request, (q_len, kv_len) in enumerate(zip(q_lens, kv_lens)):
        keys, values = k[request].astype(np.float64), v[request].astype(np.float64)
        group = q.shape[1] // keys.shape[1]
        for i in range(q_len):
            pos = kv_len - q_len + i
            if f.bits is not None:
                seen = [j for j in range(kv_len) if f.bits[row, j]]
            else:
                seen = [j for j in range(kv_len) if sees(f.mask, pos, j)]
            for h in range(q.shape[1]):
                s = keys[seen, h // group] @ q[row, h]
                s *= q.shape[2] ** -0.5 if f.scale is None else f.scale
                if f.cap is not None:
                    s = f.cap * np.tanh(s / f.cap)
                if f.slopes is not None:
                    s += f.slopes[h] * (np.array(seen) - pos)
                terms = s if f.sinks is None else np.append(s, f.sinks[h])
                if len(terms) == 0:
                    continue
                top = terms.max()
                lse[row, h] = top + np.log(np.exp(terms - top).sum())
                out[row, h] = np.exp(s - lse[row, h]) @ values[seen, h // group]
            row += 1
    return out, lse


def paged(tokens, page, order="nhd", seed=0, spare=2):
    """Spreads lists of [kv_len, heads, d] over shuffled pages; NaN fills what no token fills."""
    rng = np.random.default_rng(seed)
    columns = max(1, max(-(-len(t) // page) for t in tokens))
    count = sum(-(-len(t) // page) for t in tokens) + spare
    free = rng.permutation(count)
    pool = np.full((count, page, *tokens[0].shape[1:]), np.nan).astype(tokens[0].dtype)
    table = rng.integers(-5, 10**6, (len(tokens), columns)).astype(np.int32)
    for request, values in enumerate(tokens):
        for column in range(-(-len(values) // page)):
            part = values[column * page : (column + 1) * page]
            table[request, column], free = free[0], free[1:]
            pool[table[request, column], : len(part)] = part
    return pool.transpose(0, 2, 1, 3).copy() if order == "hnd" else pool, table
