"""A run of peers.py as bars: each case's share of what the machine could do at best.

    python bench/plot.py out.json out.svg
"""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "octavo"  # the same ids in the file each time

from matplotlib import pyplot  # noqa: E402

COLORS = {"Octavo": "#1b6ca8", "vLLM": "#e08214", "PyTorch SDPA": "#7f9c4f"}


def shares(row: dict) -> dict[str, float]:
    peers = {name: peer["share"] for name, peer in row["peers"].items() if "share" in peer}
    return {"Octavo": row["share"]} | peers


def caption(report: dict) -> str:
    limits = report["limits"]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    rates = [f"fp32 FMA {limits['fma_gflops']['all_threads']:.0f} GFLOP/s"]
    for name in ("vdpbf16ps", "tdpbf16ps"):
        if limits[f"{name}_gflops"]:
            rates.append(f"{name} {limits[f'{name}_gflops']['all_threads']:.0f} GFLOP/s")
    rates.append(f"reads {limits['read_gbs']['all_threads']:.1f} GB/s")
    return "\n".join(
        (
            f"{report['machine']}, {report['threads']} threads, {report['date']}; {versions}",
            f"Limits measured: {', '.join(rates)}. Beyond 100 %: KV read from cache.",
            *textwrap.wrap(report["command"], 110),
        )
    )


def plot(report: dict, file: Path) -> None:
    rows = report["cases"]
    names = [name for name in COLORS if any(name in shares(row) for row in rows)]
    thickness = 0.8 / len(names)
    height = 1.8 + 0.17 * (len(names) + 1) * len(rows)
    figure, axes = pyplot.subplots(figsize=(9, height), layout="constrained")
    for i, name in enumerate(names):
        drawn = [(y, shares(row)[name]) for y, row in enumerate(rows) if name in shares(row)]
        bars = axes.barh(
            [y + (i - (len(names) - 1) / 2) * thickness for y, _ in drawn],
            [100 * share for _, share in drawn],
            thickness,
            label=name,
            color=COLORS[name],
        )
        axes.bar_label(bars, fmt="%.0f", fontsize=6, padding=2)
    axes.set_yticks(range(len(rows)), [f"{row['name']} ({row['bound']})" for row in rows])
    axes.tick_params(axis="y", labelsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)  # the first case on top
    axes.axvline(100, color="black", linewidth=0.8, linestyle=":")
    axes.set_xlabel("share of the compute or memory limit, %")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=len(names), frameon=False)
    figure.supxlabel(caption(report), fontsize=7, x=0.01, ha="left")
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    plot(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))


if __name__ == "__main__":
    main()
