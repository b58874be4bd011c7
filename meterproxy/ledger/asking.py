"""Asking: what PostgreSQL says, within the time that somebody may wait for it."""

from collections.abc import Awaitable
from typing import Final, TypeVar

from meterproxy.errors import StoreUnavailable
from meterproxy.runtime.tasks import at_most

T = TypeVar("T")

ANSWER_SECONDS: Final = 5.0
"""How long anybody waits for PostgreSQL at most, however that is stuck."""


async def answered(asked: Awaitable[T]) -> T:
    """What it says. Raises StoreUnavailable, also where it says nothing; what was asked may go on by itself."""
    try:
        return await at_most(ANSWER_SECONDS, asked)
    except TimeoutError:
        raise StoreUnavailable("PostgreSQL does not answer") from None
