"""Fuzz one target, guided by coverage: `python -m tests.fuzz body --seconds 3600`.

Rules
-----
- A target is a module with `SEEDS` and `check(data)`, which raises where anything is wrong.
- What is found is written to the working directory as `crash-…`; give it back as `--input FILE` to see it again.
"""

import argparse
import hashlib
import importlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

TARGETS = ("body", "stream", "answer", "request", "wire")


def main() -> None:
    """Run the fuzzer; it ends the process by itself, with a code other than 0 where it found something."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=0, help="end after so long (0: do not)")
    parser.add_argument("--runs", type=int, default=-1, help="end after so many inputs (-1: do not)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--longest", type=int, default=2048, help="bytes of the longest input")
    parser.add_argument("--corpus", type=Path, help="where inputs that led further are kept for the next time")
    parser.add_argument("--input", type=Path, help="check this input only")
    asked = parser.parse_args()
    import atheris

    with atheris.instrument_imports(include=["meterproxy"]):
        target = importlib.import_module(f"tests.fuzz.{asked.target}")
    if asked.input is not None:
        target.check(asked.input.read_bytes())
        return
    with tempfile.TemporaryDirectory() as seeds:
        for number, seed in enumerate(target.SEEDS):
            (Path(seeds) / f"seed-{number}").write_bytes(seed)
        corpus = [] if asked.corpus is None else [str(asked.corpus)]
        limits = [f"-max_total_time={asked.seconds}", f"-runs={asked.runs}", f"-seed={asked.seed}"]
        atheris.Setup(
            [sys.argv[0], *limits, f"-max_len={asked.longest}", *corpus, seeds], lambda data: keep(target.check, data)
        )
        atheris.Fuzz()


def keep(check: Callable[[bytes], None], data: bytes) -> None:
    """Check an input, and write it down where something is wrong with it."""
    try:
        check(data)
    except BaseException:
        name = Path(f"crash-{hashlib.sha256(data).hexdigest()[:16]}")
        name.write_bytes(data)
        sys.stderr.write(f"\nfound: {name}\n")
        raise


if __name__ == "__main__":
    main()
