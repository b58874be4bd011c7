"""Handover: what the supervisor gives a worker that it starts: the configuration, the database, the sockets.

It travels in an anonymous file that only the two processes can open, never through the environment or the disk, since
it holds secrets. The release goes before it: a supervisor never runs workers of another one.
"""

import os
import pickle
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from meterproxy import __version__
from meterproxy.config import Config
from meterproxy.errors import StartFailed

LISTENING_FD: Final = "METERPROXY_INTERNAL_LISTENING_FD"
WORKER_FD: Final = "METERPROXY_INTERNAL_WORKER_FD"
LEAVE_SIGNAL: Final = signal.SIGUSR1
"""Tells a worker that its successor serves already: it takes its leave of clients before it ends."""
LINGER_SECONDS: Final = 6.0
"""How long connections of a worker that leaves may go on: longer than OpenAI's SDKs keep one that is idle."""


@dataclass(frozen=True, slots=True)
class Handover:
    """What one worker is to do: `slot` is its journal's.

    `direct_dsn` is the same database without a pooler in between.
    """

    slot: int
    config: Config
    dsn: str
    direct_dsn: str
    pooled: bool
    run_dir: Path


def hand_over(handover: Handover) -> int:
    """Put it into an anonymous file; the descriptor may be read by any number of successors."""
    descriptor = os.memfd_create("meterproxy-worker")
    os.write(descriptor, f"{__version__}\n".encode() + pickle.dumps(handover))
    return descriptor


def listening_socket() -> socket.socket:
    """The socket of the worker's seat."""
    return socket.socket(fileno=int(os.environ.pop(LISTENING_FD)))


def take_over() -> Handover:
    """Read what the supervisor has handed over.

    Raises:
        StartFailed: the supervisor is of another release, which was installed over while it ran.
    """
    descriptor = int(os.environ.pop(WORKER_FD))
    size = os.fstat(descriptor).st_size
    release, _, pickled = os.pread(descriptor, size, 0).partition(b"\n")
    if release.decode() != __version__:
        raise StartFailed(f"meterproxy {release.decode()} runs, but {__version__} is installed: restart it")
    handover = pickle.loads(pickled)  # noqa: S301  written by our own supervisor
    assert isinstance(handover, Handover)
    return handover
