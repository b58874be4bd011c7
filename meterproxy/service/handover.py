"""Handover: what the supervisor gives a worker that it starts: the configuration, the database, the sockets.

It travels in an anonymous file that only the two processes can open, never through the environment or the disk, since
it holds secrets.
"""

import os
import pickle
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from meterproxy.config import Config

WORKER_FD: Final = "METERPROXY_INTERNAL_WORKER_FD"
LEAVE_SIGNAL: Final = signal.SIGUSR1
"""Tells a worker that its successor serves already: it takes its leave of clients before it ends."""
LINGER_SECONDS: Final = 6.0
"""How long connections of a worker that leaves may go on: longer than OpenAI's SDKs keep one that is idle."""


@dataclass(frozen=True, slots=True)
class Handover:
    """What one worker is to do: `slot` is its journal's, the socket its seat's."""

    slot: int
    config: Config
    dsn: str
    pooled: bool
    listening_fd: int
    run_dir: Path


def hand_over(handover: Handover) -> int:
    """Put it into an anonymous file; the descriptor may be read by any number of successors."""
    descriptor = os.memfd_create("meterproxy-worker")
    os.write(descriptor, pickle.dumps(handover))
    return descriptor


def take_over() -> Handover:
    """Read what the supervisor has handed over."""
    descriptor = int(os.environ.pop(WORKER_FD))
    size = os.fstat(descriptor).st_size
    handover = pickle.loads(os.pread(descriptor, size, 0))  # noqa: S301  written by our own supervisor
    assert isinstance(handover, Handover)
    return handover
