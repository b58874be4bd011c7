"""Each fuzzer for a few seconds, from the same seed: what it found once it finds again."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.__main__ import TARGETS
from tests.tools import required_module

RUNS = {"body": 2500, "stream": 250, "answer": 3000, "request": 2000, "wire": 750}
REPOSITORY = Path(__file__).parents[2]


def test_every_target_runs() -> None:
    """A target that nobody runs finds nothing."""
    assert set(RUNS) == set(TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_finds_nothing(target: str, tmp_path: Path) -> None:
    """So many inputs, guided by coverage from the seeds of the tests' own tables, find nothing wrong."""
    required_module("atheris")
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", target, "--runs", str(RUNS[target]), "--longest", "600"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = re.search(r"^Done (\d+) runs", done.stderr, re.MULTILINE)
    assert told is not None
    assert int(told[1]) >= RUNS[target]
