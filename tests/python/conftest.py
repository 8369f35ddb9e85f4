import sys
from pathlib import Path

import pytest

import octavo

sys.path.insert(0, str(Path(__file__).parent))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """A forced kernel may refuse: a test of it is then skipped, with the reasons."""
    try:
        return (yield)
    except octavo.UnsupportedError as error:
        kernel = item.callspec.params.get("kernel") if hasattr(item, "callspec") else None
        if kernel is None or kernel not in str(error) or kernel == "cpu_reference":
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def one_thread():
    """torch on one thread: on little work threads mostly wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
