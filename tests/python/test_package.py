"""What installing and importing the package does."""

import importlib.metadata
import importlib.resources
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import octavo

SEED = "paged q=bf16 kv=bf16 hq=14 hkv=2 d=64 page=16 mask=causal b=1 q_len=8 kv_len=9"


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True
    )


def test_import_is_quick_and_needs_no_framework():
    code = (
        "import sys, time; t = time.process_time(); import octavo; t = time.process_time() - t;"
        "print(t, sorted({'torch', 'vllm', 'numpy'} & set(sys.modules)))"
    )
    outputs = [python(code).stdout.split(maxsplit=1) for _ in range(5)]
    assert all(modules.strip() == "[]" for _, modules in outputs)
    assert min(float(seconds) for seconds, _ in outputs) < 0.1


def test_is_typed():
    files = importlib.resources.files(octavo)
    assert files.joinpath("py.typed").is_file()
    assert "def plan(" in files.joinpath("_octavo.pyi").read_text()


def test_module_exports_nothing_but_its_init():
    # Its copy of the library, or of libstdc++, must not mix with those of other modules.
    nm = ["nm", "-D", "--defined-only", "--format=just-symbols", octavo._octavo.__file__]
    symbols = subprocess.run(nm, capture_output=True, text=True, check=True).stdout.split()
    exported = [symbol for symbol in symbols if "octavo" in symbol]
    assert exported == ["PyInit__octavo"]


def test_version_matches_the_distribution():
    assert octavo.__version__ == importlib.metadata.version("octavo")


def test_explain_names_every_kernel_and_the_winner():
    text = octavo.explain(SEED)
    assert all(kernel in text for kernel in octavo.kernels())
    assert "<- selected" in text


def test_forcing_a_kernel():
    assert octavo.plan(SEED, kernel="cpu_reference").kernel == "cpu_reference"
    code = f"import octavo; print(octavo.plan({SEED!r}).kernel)"
    assert python(code, OCTAVO_KERNEL="cpu_reference").stdout.strip() == "cpu_reference"
    assert "selected" in python(code, OCTAVO_LOG="selection").stderr
    with pytest.raises(octavo.UnsupportedError, match="d must be from 8 to 576, is 4"):
        octavo.plan("ragged q=f32 hq=1 d=4 q_len=1 kv_len=1", kernel="cpu_portable")


@pytest.mark.parametrize(
    "error, builtin",
    [
        (octavo.InvalidProblemError, ValueError),
        (octavo.InvalidArgumentError, ValueError),
        (octavo.UnsupportedError, NotImplementedError),
        (octavo.UnavailableError, RuntimeError),
    ],
)
def test_errors_are_also_builtin_ones(error, builtin):
    assert issubclass(error, octavo.Error) and issubclass(error, builtin)


def test_unavailable_device():
    with pytest.raises(octavo.UnavailableError, match="no CUDA device"):
        octavo.explain(SEED, device="cuda:0")


def test_command_line_is_in_the_wheel():
    command = Path(sysconfig.get_path("scripts")) / "octavo"
    done = subprocess.run([command, "explain", SEED], capture_output=True, text=True)
    assert done.returncode == 0 and "<- selected" in done.stdout
    assert subprocess.run([command, "explain", "nonsense"], capture_output=True).returncode == 2


def test_installing_does_not_change_vllm():
    (entry,) = importlib.metadata.entry_points(group="vllm.general_plugins", name="octavo")
    assert entry.value == "octavo.vllm:register"
