"""The environment that tests run in: nothing of a developer's provider, proxy or installation leaks in.

`VOLUME` is where tests put what they make and remove by the thousand; services live on `DISK`, and insist on it.
"""

import os
import shutil
from collections.abc import Mapping, MutableMapping
from pathlib import Path

_OURS = "METERPROXY_TEST_"
_PREFIXES = ("OPENAI_", "ANTHROPIC_", "AZURE_", "CLOUDFLARE_", "METERPROXY_", "PG")
_SUFFIXES = ("_PROXY",)
_UNCOMPILED = "PYTHONDONTWRITEBYTECODE"
"""Images set it; each of the hundreds of processes that tests start would compile the whole program again."""

DISK = Path("/tmp")
_MEMORY = Path("/dev/shm")
_MEMORY_BYTES = 4 << 30
"""Several times what the PostgreSQL servers of a run take."""


def scrub(environment: MutableMapping[str, str] = os.environ) -> None:
    """Remove every variable that could change what the tests talk to."""
    for name in list(environment):
        upper = name.upper()
        foreign = upper.startswith(_PREFIXES) or upper.endswith(_SUFFIXES) or upper == _UNCOMPILED
        if foreign and not upper.startswith(_OURS):
            del environment[name]


def scrubbed(environment: Mapping[str, str]) -> dict[str, str]:
    """A scrubbed copy."""
    copy = dict(environment)
    scrub(copy)
    return copy


def _volume() -> Path:
    """Memory where it has the room.

    A database is a thousand files. ext4 gives a removed file's number to no new one for a while, and looks
    through all of them for each: on a disk half of a run's CPU is spent on that.
    """
    try:
        roomy = shutil.disk_usage(_MEMORY).free >= _MEMORY_BYTES and os.access(_MEMORY, os.W_OK | os.X_OK)
    except OSError:
        return DISK
    return _MEMORY if roomy else DISK


VOLUME = _volume()
