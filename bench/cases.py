"""The problems of cases.txt: what they ask for, and how fast a machine could be at best."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

BYTES = {"f32": 4, "f16": 2, "bf16": 2, "e4m3": 1, "e5m2": 1}


@dataclasses.dataclass(frozen=True)
class Case:
    """A line of a file of cases. `words`: the keys and flags of the problem, as they stand there."""

    name: str
    problem: str
    words: dict[str, str]

    @property
    def q(self) -> str:
        return self.words["q"]

    @property
    def kv(self) -> str:
        return self.words.get("kv", self.q)

    @property
    def out(self) -> str:
        return self.words.get("out", self.q if BYTES[self.q] > 1 else "bf16")

    @property
    def hq(self) -> int:
        return int(self.words["hq"])

    @property
    def hkv(self) -> int:
        return int(self.words.get("hkv", self.hq))

    @property
    def d(self) -> int:
        return int(self.words["d"])

    @property
    def dv(self) -> int:
        return int(self.words.get("dv", self.d))

    @property
    def page(self) -> int:
        return int(self.words.get("page", 16))

    @property
    def mask(self) -> str:
        return self.words.get("mask", "none")

    @property
    def scale(self) -> float:
        return float(self.words.get("scale", self.d**-0.5))

    @property
    def q_lens(self) -> list[int]:
        return self._lengths("q_len")

    @property
    def kv_lens(self) -> list[int]:
        return self._lengths("kv_len")

    def _lengths(self, key: str) -> list[int]:
        listed = [[int(n) for n in self.words[k].split(",")] for k in ("q_len", "kv_len")]
        batch = int(self.words.get("b", max(map(len, listed))))
        lengths = listed[key == "kv_len"]
        return lengths * batch if len(lengths) == 1 else lengths

    def visible(self, q_len: int, kv_len: int) -> tuple[np.ndarray, np.ndarray]:
        """The first key that each query of a request sees, and the one after its last."""
        pos = kv_len - q_len + np.arange(q_len)
        kind, _, numbers = self.mask.partition(":")
        low, high = np.zeros_like(pos), np.full_like(pos, kv_len)
        if kind in ("causal", "chunked"):
            high = pos + 1
        if kind == "chunked":
            low = pos // int(numbers) * int(numbers)
        if kind == "window":
            left, right = map(int, numbers.split(","))
            low = pos - left if left >= 0 else low
            high = pos + right + 1 if right >= 0 else high
        if kind not in ("none", "causal", "chunked", "window"):
            raise ValueError(f"{self.name}: mask={self.mask} is not measured")
        low = np.clip(low, 0, kv_len)
        return low, np.maximum(low, np.clip(high, 0, kv_len))

    def work(self) -> tuple[float, float]:
        """Floating-point operations, and bytes of the keys and values that some query sees."""
        pairs = tokens = 0
        for q_len, kv_len in zip(self.q_lens, self.kv_lens):
            low, high = self.visible(q_len, kv_len)
            pairs += int((high - low).sum())
            seen = np.concatenate(([0], np.maximum.accumulate(high)[:-1]))  # by the queries before
            tokens += int(np.maximum(0, high - np.maximum(low, seen)).sum())
        dims = self.d + self.dv
        return 2.0 * dims * self.hq * pairs, float(dims * self.hkv * BYTES[self.kv] * tokens)


def parse(name: str, problem: str) -> Case:
    words = dict(word.partition("=")[::2] for word in problem.split()[1:])
    return Case(name, problem, words)


def read(file: Path) -> list[Case]:
    """Lines of `name | problem`; # starts a comment."""
    lines = (line.partition("#")[0].strip() for line in file.read_text().splitlines())
    parts = (line.partition("|") for line in lines if line)
    return [parse(name.strip(), problem.strip()) for name, _, problem in parts]


def floor(case: Case, limits: dict) -> tuple[float, bool]:
    """The least seconds that the limits leave for a case, and whether reading KV takes them.

    `limits`: what `octavo bench --limits --json` prints. The command line has the same formula.
    """
    flops, kv_bytes = case.work()
    rates = [limits["fma_gflops"]]
    if all(dtype in ("bf16", "e4m3", "e5m2") for dtype in (case.q, case.kv)):
        rates += [limits["vdpbf16ps_gflops"], limits["tdpbf16ps_gflops"]]
    compute = flops / (1e9 * max(rate["all_threads"] for rate in rates if rate))
    memory = kv_bytes / (1e9 * limits["read_gbs"]["all_threads"])
    return max(compute, memory), memory > compute
