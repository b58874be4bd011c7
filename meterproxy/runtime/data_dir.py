"""The data directory of a host: who may use it, and where its sockets live.

Rules
-----
- One supervisor at a time: the lock ends with the process that holds it, so a kill never leaves it behind.
- What the lock file still says when it is taken tells that the last run did not end in order.
"""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final, Self

from meterproxy.errors import StartFailed

_SOCKET_PATH_BYTES: Final = 107
_LONGEST_NAME: Final = 32


class DataDirLock:
    """The lock on `<data_dir>/lock`; a context manager, so that it is given back whatever happens."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._descriptor = -1
        self.was_left = False
        """Whether the last holder was killed: its children may take a moment to follow it."""

    def __enter__(self) -> Self:
        """Take the lock. Raises StartFailed, which names the process that holds it."""
        try:
            self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._descriptor = os.open(self._data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StartFailed(f"data_dir {self._data_dir} cannot be used: {error.strerror}") from error
        holder = os.pread(self._descriptor, 100, 0).decode("ascii", "replace").strip()
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            who = holder or "another process"
            raise StartFailed(
                f"data_dir {self._data_dir} is in use by {who}: stop it, or set another data_dir"
            ) from None
        self.was_left = bool(holder)
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"process {os.getpid()}\n".encode(), 0)
        return self

    def __exit__(self, *_: object) -> None:
        os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)


class RunDirectory:
    """The directory of a host's sockets, `<data_dir>/run`, or a short private one where their paths would not fit."""

    def __init__(self, data_dir: Path) -> None:
        self._short = len(os.fsencode(data_dir / "run")) + _LONGEST_NAME > _SOCKET_PATH_BYTES
        self.path = data_dir / "run"

    def __enter__(self) -> Path:
        """Make it; the path is handed on to the workers."""
        if self._short:
            self.path = Path(tempfile.mkdtemp(prefix="meterproxy-", dir="/tmp"))
        else:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self.path

    def __exit__(self, *_: object) -> None:
        if self._short:
            shutil.rmtree(self.path, ignore_errors=True)
