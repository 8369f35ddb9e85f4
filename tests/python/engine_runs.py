"""Runs of engine.py in processes of their own, and what their results say."""

import json
import os
import subprocess
import sys
from pathlib import Path


def start(folder: Path, octavo: bool, names: list[str], **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, Path(__file__).with_name("engine.py"), folder, *names],
        env=os.environ | {"OCTAVO_VLLM": str(int(octavo))} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> dict:
    """The results by name."""
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr[-4000:]
    return json.loads(stdout.splitlines()[-1])


def run(folder: Path, octavo: bool, names: list[str], **environment: str) -> dict:
    return finish(start(folder, octavo, names, **environment))


def result_of(results: dict, name: str) -> dict:
    assert "error" not in results[name], results[name]["error"]
    return results[name]


def distance(x: dict, y: dict) -> float:
    """How far the log-probabilities of the prompts are apart, on average."""
    pairs = list(zip(x["logprobs"], y["logprobs"], strict=True))
    return sum(abs(a - b) for a, b in pairs) / len(pairs)


def check_encoder(result: dict, backend: str) -> None:
    """An embedding model gave what transformers gives, by the attention of module `backend`."""
    assert set(result["attention"]) == {backend}
    assert result["worst"] < 1e-5


def check_transcript(result: dict, backend: str) -> None:
    """Likewise a model with cross attention."""
    assert set(result["attention"]) == {backend}
    assert result["tokens"] == result["expected"]
    assert len(set(map(tuple, result["tokens"]))) == 3  # the sound matters
