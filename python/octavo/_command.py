"""The console script: hands over to the compiled command line in the wheel."""

import os
import sys
from pathlib import Path


def main() -> None:
    program = str(Path(__file__).parent / "bin" / "octavo")
    os.execv(program, [program, *sys.argv[1:]])
