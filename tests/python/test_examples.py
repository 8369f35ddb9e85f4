"""The examples of one file each, run as they stand. transformers' is in test_transformers_paged.py."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def printed_by(name, capsys):
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    printed = capsys.readouterr().out
    assert exit_.value.code == 0, printed
    return printed


def test_a_cache_with_numpy(capsys):
    assert "80 of 113 tokens were cached" in printed_by("numpy_cache.py", capsys)


def test_a_layer_with_torch(capsys):
    pytest.importorskip("torch", reason="torch is not installed")
    printed = printed_by("torch_layer.py", capsys)
    assert "3 requests of [29, 70, 37] tokens on 10 pages" in printed


def test_context_parallelism():
    pytest.importorskip("torch", reason="torch is not installed")
    script = EXAMPLES / "context_parallel.py"
    done = subprocess.run([sys.executable, script, "3"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    shares = re.findall(r"request \d: (.*) keys on 3 ranks", done.stdout)
    assert [sum(map(int, share.split("+"))) for share in shares] == [600, 1000, 3]
