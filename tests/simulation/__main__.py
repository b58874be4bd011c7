"""Simulate the ledger: `python -m tests.simulation --seeds 10000`; one seed again: `--seed N --trace`.

`--compare N` holds the simulated database to PostgreSQL, with the calls of so many seeds; `--mutants` says
which seed first finds each of the mistakes in `mutants`, `--mutant NAME` runs with one of them.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import nullcontext

from tests import postgres
from tests.simulation.comparison import compared
from tests.simulation.mutants import MUTANTS
from tests.simulation.world import run


def main() -> int:
    """Answers 1 where anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many")
    parser.add_argument("--from", dest="first", type=int, default=1, help="the first of them")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--trace", action="store_true", help="print all that happened")
    parser.add_argument("--failures", type=int, default=10, help="end after so many")
    parser.add_argument("--mutant", choices=MUTANTS, help="build a mistake in")
    parser.add_argument("--mutants", action="store_true", help="say of every mistake which seed finds it first")
    parser.add_argument("--compare", type=int, help="compare the databases with the calls of so many seeds")
    asked = parser.parse_args()
    if asked.compare is not None:
        return compare(range(asked.first, asked.first + asked.compare))
    if asked.mutants:
        return find_mutants(range(asked.first, asked.first + asked.seeds))
    seeds = [asked.seed] if asked.seed is not None else range(asked.first, asked.first + asked.seeds)
    with MUTANTS[asked.mutant]() if asked.mutant else nullcontext():
        return simulate(seeds, asked.failures, trace=asked.trace)


def simulate(seeds: Iterable[int], most_failures: int, *, trace: bool) -> int:
    """Run seeds and say what they came to."""
    counts: Counter[str] = Counter()
    steps = virtual_us = done = failures = 0
    began = time.process_time()
    for seed in seeds:
        result = run(seed)
        done += 1
        counts.update(result.counts)
        steps += result.steps
        virtual_us += result.virtual_us
        if trace:
            sys.stdout.write("\n".join(result.trace) + "\n")
        if result.failure is not None:
            failures += 1
            sys.stdout.write(f"seed {seed}: {result.failure}\n")
            sys.stdout.flush()
            if failures >= most_failures:
                break
    seconds = time.process_time() - began
    sys.stdout.write(
        f"{done} seeds, {failures} failed, {seconds:.1f} s of CPU ({seconds / done * 1000:.0f} ms each), "
        f"{steps} steps, {virtual_us / 1e6:.0f} virtual seconds\n"
    )
    sys.stdout.write(", ".join(f"{name} {count}" for name, count in sorted(counts.items())) + "\n")
    return 1 if failures else 0


def find_mutants(seeds: range) -> int:
    """Say of every mutant after how many seeds it was found."""
    missed = 0
    for name, mutant in MUTANTS.items():
        with mutant():
            found = next((result for seed in seeds if (result := run(seed)).failure is not None), None)
        missed += found is None
        what = "not found" if found is None else f"seed {found.seed}: {found.failure}"
        sys.stdout.write(f"{name:28} {what}\n")
        sys.stdout.flush()
    return 1 if missed else 0


def compare(seeds: range) -> int:
    """Make the calls of seeds on both databases. Raises AssertionError where they differ."""
    began = time.perf_counter()
    with postgres.serving() as server, server.database() as dsn:
        calls = compared(dsn, seeds)
    sys.stdout.write(f"{len(seeds)} seeds, {calls} calls, no difference, {time.perf_counter() - began:.0f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
