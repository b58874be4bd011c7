"""Fresh identifiers for rows that people make."""

import os
import time
from typing import Final
from uuid import UUID

from meterproxy.core.identifier import uuid7

_MILLISECOND_NS: Final = 1_000_000


def new_id() -> UUID:
    """A new UUIDv7; of two that one process makes within a millisecond the later one sorts later, too.

    Source: RFC 9562, section 6.2, method 3: twelve of the random bits are a fraction of the millisecond.
    """
    now_ns = time.time_ns()
    fraction = (now_ns % _MILLISECOND_NS << 12) // _MILLISECOND_NS
    return uuid7(now_ns // 1000, fraction.to_bytes(2, "big") + os.urandom(8))
