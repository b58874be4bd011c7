"""A child's side of the supervisor: say when it is ready, and end when the supervisor is gone.

Rules
-----
- What a child is told comes in variables `METERPROXY_INTERNAL_*`; it takes them out of its environment when it reads
  them, so that its own children never act on them.
- A child outlives its supervisor by no more than its own orderly end: the kernel sends SIGTERM (Linux), and a pipe
  that only the supervisor holds open ends everywhere.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

READY_FD: Final = "METERPROXY_INTERNAL_READY_FD"
PARENT_FD: Final = "METERPROXY_INTERNAL_PARENT_FD"

_PR_SET_PDEATHSIG: Final = 1


def say_ready() -> bool:
    """Tell the supervisor that this process serves; False where it does not want to know any more.

    Without a supervisor nothing happens. One that has given a process up without being able to end it (a fork server
    that answered too late) has closed the pipe: nobody would ever end that process, so it is to end by itself.
    """
    return _say("ready")


def say_failed(message: str) -> None:
    """Tell the supervisor in one line why this process cannot start."""
    _say("failed " + " ".join(message.split()))


def on_parent_gone(act: Callable[[], None]) -> None:
    """Call `act` in the running loop once the supervisor has ended, however it ended."""
    descriptor = _descriptor(PARENT_FD)
    if descriptor is None:
        return
    loop = asyncio.get_running_loop()

    def ended() -> None:
        loop.remove_reader(descriptor)
        act()

    loop.add_reader(descriptor, ended)


def die_with_parent(signal_number: int = signal.SIGTERM) -> None:
    """Have the kernel signal this process when its parent dies; a no-op where there is no such thing.

    To be called early: before the caller asks `on_parent_gone`, whose pipe also covers a parent that died before this.
    """
    if sys.platform == "linux" and PARENT_FD in os.environ:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0)


def call_process(name: str) -> None:
    """Give this process a name of at most 15 bytes, which `top` and `ps -o comm` show (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(name)


def _say(line: str) -> bool:
    """Whether somebody reads what is said, or nobody ever wanted to."""
    descriptor = _descriptor(READY_FD)
    if descriptor is not None:
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as pipe:
                pipe.write(line.encode("utf-8", "replace")[:1000] + b"\n")
        except OSError:
            return False
    return True


def _descriptor(name: str) -> int | None:
    text = os.environ.pop(name, "")
    return int(text) if text.isdigit() else None
