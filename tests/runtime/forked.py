"""The program of a fork server's children in its tests: `python -m tests.runtime.forked` is the server.

A child writes to the descriptor `OUT` what it finds, then does what `DO` says.
"""

import json
import os
import signal
import sys
from pathlib import Path

from meterproxy.runtime.fork_server import fork_when_asked
from meterproxy.runtime.parent import say_ready


def run() -> int:
    """Tell, and end as is wished: by a code, by a signal, or when `WAIT` comes to its end."""
    found = {"pid": os.getpid(), "session": os.getsid(0), "variables": dict(os.environ), "open": _open()}
    if os.environ["DO"] == "say ready":
        found["heard"] = say_ready()
    os.write(int(os.environ["OUT"]), json.dumps(found).encode())
    match os.environ["DO"].split():
        case ["exit", code]:
            return int(code)
        case ["die", number]:
            os.kill(os.getpid(), int(number))
            signal.pause()
        case ["wait"]:
            os.read(int(os.environ["WAIT"]), 1)
            return 7
    return 1


def _open() -> list[str]:
    """What is open in this process, but for standard streams and the look itself."""
    entries = [entry for entry in Path("/proc/self/fd").iterdir() if int(entry.name) > 2]
    return sorted(str(entry.readlink()) for entry in entries if entry.is_symlink())


if __name__ == "__main__":
    sys.exit(fork_when_asked(run))
