"""Actors: in whose name something is written into the audit log."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

_ACTING: Final[ContextVar[str | None]] = ContextVar("acting", default=None)


@contextmanager
def acting_as(actor: str) -> Iterator[None]:
    """What is done in this block is done by `actor`, whoever usually uses the store."""
    token = _ACTING.set(actor)
    try:
        yield
    finally:
        _ACTING.reset(token)


def acting(usual: str) -> str:
    """Who acts: whoever `acting_as` names, else who usually does."""
    return _ACTING.get() or usual
