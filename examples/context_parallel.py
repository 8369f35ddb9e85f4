"""Context parallelism over torch.distributed: each rank holds a part of every request's keys.

A prompt's chunk and a token to decode arrive at all ranks. Each computes attention over its own part of K
and V, the partial outputs and their LSEs are gathered and merged, and every rank then has the result. Rank 0
compares it with attention over all keys in one call.

usage: context_parallel.py [RANKS]     exits with 1 if the results differ
"""

import os
import socket
import sys

import torch
import torch.distributed as dist
import torch.multiprocessing

import octavo

HQ, HKV, D, PAGE = 8, 2, 64, 16
Q_LENS = [24, 1, 1]
KV_LENS = [600, 1000, 3]  # the last is so short that some ranks hold none of it


def paged(tokens: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Requests' K or V [tokens, hkv, d] on pages, and their table."""
    counts = [-(-len(x) // PAGE) for x in tokens]
    pool = torch.full((sum(counts), PAGE, HKV, D), torch.nan)
    table = torch.full((len(tokens), max(counts)), -1, dtype=torch.int32)
    first = 0
    for request, (x, count) in enumerate(zip(tokens, counts)):
        pool[first : first + count].view(-1, HKV, D)[: len(x)] = x
        table[request, :count] = torch.arange(first, first + count)
        first += count
    return pool, table


def attend(q, k, v, mask: str):
    """Attention and its LSE over each request's K and V."""
    (k_pages, table), (v_pages, _) = paged(k), paged(v)
    return octavo.attention(
        q, k_pages, v_pages, q_lens=Q_LENS, kv_lens=[len(x) for x in k], page_table=table,
        mask=mask, return_lse=True,
    )  # fmt: skip


def part(tokens: torch.Tensor, q_len: int, rank: int, ranks: int) -> torch.Tensor:
    """A rank's share of a request. The queries' own tokens are all on the last rank, so that the others'
    keys come before every query and need no mask."""
    before = len(tokens) - q_len
    end = len(tokens) if rank == ranks - 1 else before * (rank + 1) // ranks
    return tokens[before * rank // ranks : end]


def worker(rank: int, ranks: int, port: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    torch.manual_seed(0)  # all ranks make the same tokens, and keep only their part of K and V
    q = torch.randn(sum(Q_LENS), HQ, D)
    k = [torch.randn(kv_len, HKV, D) for kv_len in KV_LENS]
    v = [torch.randn(kv_len, HKV, D) for kv_len in KV_LENS]
    own_k, own_v = (
        [part(x, q_len, rank, ranks) for x, q_len in zip(tokens, Q_LENS)] for tokens in (k, v)
    )
    out, lse = attend(q, own_k, own_v, "causal" if rank == ranks - 1 else "none")

    outs, lses = torch.empty(ranks, *out.shape), torch.empty(ranks, *lse.shape)
    dist.all_gather(list(outs), out)
    dist.all_gather(list(lses), lse)
    merged, _ = octavo.merge_states(outs, lses)  # a part without keys has LSE = -inf, and adds nothing

    held = torch.empty(ranks, len(KV_LENS), dtype=torch.int64)
    dist.all_gather(list(held), torch.tensor([len(x) for x in own_k]))
    if rank == 0:
        for request, tokens in enumerate(held.T.tolist()):
            print(f"request {request}: {' + '.join(map(str, tokens))} keys on {ranks} ranks")
        error = (merged - attend(q, k, v, "causal")[0]).abs().max().item()
        print(f"largest distance from attention on one rank: {error:.1e}")
        assert error < 1e-5
    dist.destroy_process_group()


def main() -> None:
    ranks = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(worker, (ranks, port), nprocs=ranks)


if __name__ == "__main__":
    main()
