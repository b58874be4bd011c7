"""The terminal that a process was started from: whether SIGHUP says that it is gone, or asks to read settings again."""

import contextlib
import os
from typing import Final

_PATH: Final = "/dev/tty"


class Terminal:
    """Remembers whether there was one when it was made."""

    def __init__(self) -> None:
        self._was_there = _is_there()

    @property
    def is_gone(self) -> bool:
        """Whether there was a terminal, and its window was closed since."""
        return self._was_there and not _is_there()


def _is_there() -> bool:
    with contextlib.suppress(OSError):
        os.close(os.open(_PATH, os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
        return True
    return False
