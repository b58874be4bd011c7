"""The simulated database and PostgreSQL, a few seeds; more by `python -m tests.simulation --compare 1000`."""

import pytest

from tests.simulation.comparison import compared
from tests.simulation.mutants import MUTANTS

SEEDS = range(1, 7)


def test_does_what_postgresql_does(database: str) -> None:
    """The same calls get the same answers and leave the same tables, so that what the simulation shows holds."""
    assert compared(database, SEEDS, 50) > 300


def test_a_difference_is_seen(database: str) -> None:
    """A simulated database that lends more than the real one is told apart."""
    with MUTANTS["lends_without_condition"](), pytest.raises(AssertionError, match="PostgreSQL"):
        compared(database, range(1, 4), 50)
