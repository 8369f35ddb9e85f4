"""The benchmark's list of cases, and its comparison with peers."""

import sys
from pathlib import Path

import pytest

import octavo

BENCH = Path(__file__).parents[2] / "bench"
sys.path.insert(0, str(BENCH))

import cases  # noqa: E402
import peers  # noqa: E402

CASES = cases.read(BENCH / "cases.txt")
LIMITS = {
    "fma_gflops": {"one_thread": 100, "all_threads": 200},
    "vdpbf16ps_gflops": {"one_thread": 200, "all_threads": 400},
    "tdpbf16ps_gflops": None,
    "read_gbs": {"one_thread": 10, "all_threads": 20},
}
HEADS = "hq=4 hkv=2 d=32 page=16"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case_is_computed(case):
    assert "<- selected" in octavo.explain(case.problem)


def test_names_are_unique():
    assert CASES and len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("mask", ["none", "causal", "window:3,1", "window:-1,0", "chunked:4"])
def test_work_counts_what_the_mask_shows(mask):
    from oracle import sees

    case = cases.parse("", f"paged q=bf16 {HEADS} mask={mask} q_len=5,1,9 kv_len=11,20,7")
    pairs = tokens = 0
    for q_len, kv_len in zip(case.q_lens, case.kv_lens):
        positions = range(kv_len - q_len, kv_len)
        seen = [j for pos in positions for j in range(kv_len) if sees(mask, pos, j)]
        pairs, tokens = pairs + len(seen), tokens + len(set(seen))
    assert case.work() == (2 * 64 * 4 * pairs, 64 * 2 * 2 * tokens)


def test_floor_is_the_slower_of_products_and_reads():
    for words, rate in (("q=f32 kv=bf16", 200e9), ("q=bf16 kv=e4m3", 400e9), ("q=f16", 200e9)):
        case = cases.parse("", f"paged {words} {HEADS} mask=causal q_len=512 kv_len=512")
        assert cases.floor(case, LIMITS) == (case.work()[0] / rate, False)
    case = cases.parse("", f"paged q=bf16 {HEADS} mask=causal q_len=1 kv_len=512")
    assert cases.floor(case, LIMITS) == (512 * 2 * 64 * 2 / 20e9, True)


TINY = cases.parse("tiny", f"paged q=bf16 {HEADS} mask=causal q_len=9,1,9 kv_len=33,40,33")


def test_peers_agree():
    pytest.importorskip("torch")
    found, _ = peers.find_peers()
    row = peers.compare(TINY, LIMITS, found, rounds=1)
    assert row["peers"].keys() == found.keys()
    assert all(peer["agrees"] and peer["us"] > 0 for peer in row["peers"].values())
    assert 0 < row["share"] and row["speedup"] > 0
    assert "WRONG" not in peers.line(row, found, 8)


def test_a_peer_that_does_other_work_is_wrong():
    pytest.importorskip("torch")

    class Uncausal(peers.Sdpa):
        def additive_mask(self, *_):
            return None

    row = peers.compare(TINY, LIMITS, {"SDPA": Uncausal}, rounds=1)
    assert not row["peers"]["SDPA"]["agrees"]
    assert "WRONG" in peers.line(row, ["SDPA"], 8)


def test_a_peer_says_what_it_cannot_do():
    pytest.importorskip("torch")
    case = cases.parse("", f"paged q=bf16 {HEADS} mask=causal sinks q_len=9 kv_len=33")
    row = peers.compare(case, LIMITS, {"SDPA": peers.Sdpa}, rounds=1)
    assert row["peers"] == {"SDPA": {"refused": "sinks"}} and row["speedup"] is None
