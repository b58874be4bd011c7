"""Fresh identifiers for rows that people make."""

import os
import time
from uuid import UUID

from meterproxy.core.identifier import uuid7


def new_id() -> UUID:
    """A new UUIDv7."""
    return uuid7(time.time_ns() // 1000, os.urandom(10))
