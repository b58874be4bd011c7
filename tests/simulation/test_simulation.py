"""A few seeds of the simulation in every run of the suite; ten thousand by `python -m tests.simulation --seeds 10000`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.mutants import MUTANTS
from tests.simulation.world import run

REPOSITORY = Path(__file__).parents[2]
SEEDS = range(1, 31)
MUTANT_SEEDS = range(1, 41)
QUICKLY_FOUND = (
    "lends_without_condition", "hears_only_answers", "books_what_was_booked", "writes_endings_late",
    "closes_before_it_settles", "gives_back_by_difference", "keeps_what_others_want", "captures_the_whole_hold", "forgets_what_it_folds",
    "extends_beyond_its_lease",
)  # fmt: skip
"""All of them by `python -m tests.simulation --mutants`."""


def test_nothing_is_found() -> None:
    """A fleet under faults of all kinds keeps books that an auditor of its own finds right, and lets nobody wait in vain."""
    found = {seed: failure for seed in SEEDS if (failure := run(seed).failure) is not None}
    assert found == {}


def test_the_same_seed_is_the_same_world() -> None:
    """What a seed found it finds again, in whatever process: nothing depends on addresses, hashes or real time."""
    told = {_digests(hash_seed) for hash_seed in ("1", "2")}
    assert told == {" ".join(run(seed).digest for seed in (3, 4, 5, 8))}


def _digests(hash_seed: str) -> str:
    script = "from tests.simulation.world import run; print(*(run(seed).digest for seed in (3, 4, 5, 8)))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    return done.stdout.strip()


@pytest.mark.parametrize("mutant", QUICKLY_FOUND)
def test_finds_mutants(mutant: str) -> None:
    """A simulation that finds no mistakes that are there would prove nothing about those that are not."""
    with MUTANTS[mutant]():
        assert any(run(seed).failure is not None for seed in MUTANT_SEEDS)


def test_a_failure_can_be_read() -> None:
    """Whoever is given a seed sees what went wrong, all that led there, and what the tables said then."""
    with MUTANTS["lends_without_condition"]():
        result = next(result for seed in MUTANT_SEEDS if (result := run(seed)).failure is not None)
    assert result.failure is not None
    assert "over-lent" in result.failure
    assert any(" lend(" in line for line in result.trace)
    assert any(" state  credit" in line for line in result.trace)
