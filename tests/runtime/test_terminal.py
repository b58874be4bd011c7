"""A terminal that is closed while a process runs."""

import fcntl
import os
import subprocess
import sys
import termios

PROGRAM = """
import signal
from meterproxy.runtime.terminal import Terminal
terminal = Terminal()
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
print(terminal.is_gone, flush=True)
signal.sigwait({signal.SIGHUP})
print(terminal.is_gone, flush=True)
"""


def started(terminal: int | None) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdin=subprocess.DEVNULL if terminal is None else terminal,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=None if terminal is None else lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509
    )


def test_a_window_that_is_closed_is_noticed() -> None:
    """The SIGHUP that comes with it says: end; it is no wish to read settings again."""
    window, terminal = os.openpty()
    process = started(terminal)
    os.close(terminal)
    assert process.stdout is not None
    assert process.stdout.readline() == "False\n"
    os.close(window)
    assert process.communicate()[0] == "True\n"


def test_a_service_without_a_terminal_never_lost_one() -> None:
    """Under a service manager SIGHUP means what the manager says."""
    process = started(None)
    assert process.stdout is not None
    assert process.stdout.readline() == "False\n"
    process.send_signal(1)
    assert process.communicate()[0] == "False\n"
