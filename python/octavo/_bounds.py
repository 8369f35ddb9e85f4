"""The bounds of a batch, for plans that outlive it."""

from __future__ import annotations

from typing import NamedTuple


class Bounds(NamedTuple):
    """At most so many requests, of so many query tokens together, none longer than these."""

    requests: int
    tokens: int
    q_len: int
    kv_len: int

    def rounded(self) -> Bounds:
        """Up to powers of two, so that few plans serve all batches."""
        requests, tokens, q_len, kv_len = (_power(n) for n in self)
        return Bounds(requests, tokens, min(q_len, tokens), kv_len)

    def after(self, prefix: int) -> Bounds:
        """Of requests whose queries come after a prefix; without one there may be more than keys."""
        if prefix == 0:
            return self
        return self._replace(q_len=max(1, min(self.q_len, self.kv_len - prefix + 1)))

    def lengths(self) -> str:
        """As the lengths of a problem: the longest first, as many as the tokens fill."""
        whole, rest = divmod(self.tokens, self.q_len)
        filled = [self.q_len] * whole + [rest] * (rest > 0)
        q_lens = (filled + [0] * self.requests)[: self.requests]
        return f"b={self.requests} q_len={','.join(map(str, q_lens))} kv_len={self.kv_len}"


def _power(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()
