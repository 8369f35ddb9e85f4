"""A layer of attention over pages, with torch alone: prompts at once, then token by token.

The engine's side is here in full: a pool of pages for K and V, a table that says which pages are whose,
and the lengths. Every result is compared with torch's scaled_dot_product_attention over K and V that
lie in one piece.

usage: torch_layer.py     exits with 1 if a result is off
"""

import sys

import torch
from torch.nn.functional import scaled_dot_product_attention

import octavo

HQ, HKV, D, WIDTH = 8, 2, 64, 256  # query heads share the KV heads, four each
PAGE, PAGES = 16, 64
PROMPTS = [9, 50, 17]  # tokens; most fill no page to its end
NEW_TOKENS = 20


class Layer:
    def __init__(self, requests: int) -> None:
        self.to_qkv = torch.randn(WIDTH, (HQ + 2 * HKV) * D) / WIDTH**0.5
        # NaN shows that nothing is read that was not written.
        self.k = torch.full((PAGES, PAGE, HKV, D), torch.nan)
        self.v = torch.full((PAGES, PAGE, HKV, D), torch.nan)
        self.free = torch.randperm(PAGES).tolist()  # any page may follow any other
        self.pages = [[] for _ in range(requests)]
        self.lengths = torch.zeros(requests, dtype=torch.int32)

    def store(self, request: int, k: torch.Tensor, v: torch.Tensor) -> None:
        """Appends K and V [tokens, hkv, d] to a request, on new pages where they are needed."""
        for key, value in zip(k, v):
            column, slot = divmod(int(self.lengths[request]), PAGE)
            if column == len(self.pages[request]):
                self.pages[request].append(self.free.pop())
            self.k[self.pages[request][column], slot] = key
            self.v[self.pages[request][column], slot] = value
            self.lengths[request] += 1

    def forward(self, x: list[torch.Tensor]) -> list[torch.Tensor]:
        """Attention of each request's new tokens [tokens, width], after all that came before."""
        counts = [len(tokens) for tokens in x]
        qkv = (torch.cat(x) @ self.to_qkv).view(-1, HQ + 2 * HKV, D)
        q, k, v = qkv.split([HQ, HKV, HKV], dim=1)
        for request, new in enumerate(zip(k.split(counts), v.split(counts))):
            self.store(request, *new)
        columns = max(map(len, self.pages))
        table = [pages + [-1] * (columns - len(pages)) for pages in self.pages]
        out = octavo.attention(
            q, self.k, self.v, q_lens=counts, kv_lens=self.lengths, page_table=table, mask="causal"
        )
        return list(out.split(counts))

    def expected(self, x: torch.Tensor) -> torch.Tensor:
        """The same for all tokens of one request, by torch."""
        qkv = (x @ self.to_qkv).view(len(x), HQ + 2 * HKV, D).transpose(0, 1)
        q, k, v = qkv.split([HQ, HKV, HKV])
        out = scaled_dot_product_attention(
            q[None], k[None], v[None], is_causal=True, enable_gqa=True
        )
        return out[0].transpose(0, 1)


def main() -> None:
    torch.manual_seed(0)
    layer = Layer(len(PROMPTS))
    tokens = [torch.randn(count + NEW_TOKENS, WIDTH) for count in PROMPTS]
    outs = [layer.forward([x[:count] for x, count in zip(tokens, PROMPTS)])]
    for i in range(NEW_TOKENS):
        outs.append(layer.forward([x[n + i : n + i + 1] for x, n in zip(tokens, PROMPTS)]))
    worst = 0.0
    for request, x in enumerate(tokens):
        out = torch.cat([step[request] for step in outs])
        worst = max(worst, (out - layer.expected(x)).abs().max().item())
    print(f"{len(tokens)} requests of {layer.lengths.tolist()} tokens on {sum(map(len, layer.pages))} pages")
    print(f"largest distance from scaled_dot_product_attention: {worst:.1e}")
    sys.exit(0 if worst < 1e-5 else 1)


if __name__ == "__main__":
    main()
