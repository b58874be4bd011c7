"""Run seeds: `python -m tests.simulation --seeds 10000`; look at one: `--seed N --trace`."""

import argparse
import sys
import time
from collections import Counter

from tests.simulation.world import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many")
    parser.add_argument("--from", dest="first", type=int, default=1, help="the first of them")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--trace", action="store_true", help="print all that happened")
    parser.add_argument("--failures", type=int, default=10, help="end after so many")
    asked = parser.parse_args()
    seeds = [asked.seed] if asked.seed is not None else range(asked.first, asked.first + asked.seeds)
    counts: Counter[str] = Counter()
    steps = virtual_us = failures = done = 0
    began = time.process_time()
    for seed in seeds:
        result = run(seed)
        done += 1
        counts.update(result.counts)
        steps += result.steps
        virtual_us += result.virtual_us
        if asked.trace:
            sys.stdout.write("\n".join(result.trace) + "\n")
        if result.failure is not None:
            failures += 1
            sys.stdout.write(f"seed {seed}: {result.failure}\n")
            if failures >= asked.failures:
                break
    seconds = time.process_time() - began
    sys.stdout.write(
        f"{done} seeds, {failures} failed, {seconds:.1f} s of CPU ({seconds / done * 1000:.0f} ms each), "
        f"{steps} steps, {virtual_us / 1e6:.0f} virtual seconds\n"
    )
    sys.stdout.write(", ".join(f"{name} {count}" for name, count in sorted(counts.items())) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
