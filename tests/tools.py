"""Programs of the system that single groups of tests need.

Rules
-----
- A test never skips in silence: without its program it is left out and `python -m tests` says so in its last line;
  where `CI` is set it fails.
"""

import os
import shutil
from typing import Final

import pytest

PACKAGES: Final = {"promtool": "prometheus", "pgbouncer": "pgbouncer"}
"""What Debian calls the package of each program."""
PLACES: Final = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"])
"""Where programs are looked for; servers live where the PATH of a person does not lead."""


def missing() -> list[str]:
    """The programs that tests need and this machine lacks."""
    return [program for program in PACKAGES if shutil.which(program, path=PLACES) is None]


def required(program: str) -> str:
    """The path of a program; without it the test does not run."""
    path = shutil.which(program, path=PLACES)
    if path is None:
        reason = f"not run: needs {program} (Debian: apt-get install {PACKAGES[program]})"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path
