"""What of the system, or of other languages, single groups of tests need.

Rules
-----
- A test never skips in silence: without what it needs it is left out and `python -m tests` says so in its last line;
  where `CI` is set it fails.
"""

import importlib.util
import os
import shutil
from typing import Final, NoReturn

import pytest

PACKAGES: Final = {
    "promtool": "prometheus",
    "pgbouncer": "pgbouncer",
    "node": "nodejs",
    "npm": "npm",
    "chromium": "chromium",
}
"""What Debian calls the package of each program."""
MODULES: Final = {"atheris": "there is no wheel of it for this Python or platform"}
"""Modules of Python that cannot be had everywhere, and why."""
PLACES: Final = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"])
"""Where programs are looked for; servers live where the PATH of a person does not lead."""


def missing() -> list[str]:
    """What tests need and this machine lacks, each with a word on how to get it."""
    programs = [program for program in PACKAGES if shutil.which(program, path=PLACES) is None]
    modules = [module for module in MODULES if importlib.util.find_spec(module) is None]
    return [*map(_program, programs), *map(_module, modules)]


def required(program: str) -> str:
    """The path of a program; without it the test does not run."""
    path = shutil.which(program, path=PLACES)
    if path is None:
        without(_program(program))
    return path


def required_module(module: str) -> None:
    """Without this module the test does not run."""
    if importlib.util.find_spec(module) is None:
        without(_module(module))


def without(needed: str) -> NoReturn:
    """Leave the running test out, or fail where nothing may be left out."""
    if os.environ.get("CI"):
        pytest.fail(f"not run: needs {needed}")
    pytest.skip(f"not run: needs {needed}")


def _program(program: str) -> str:
    return f"{program} (Debian: apt-get install {PACKAGES[program]})"


def _module(module: str) -> str:
    return f"{module} ({MODULES[module]})"
