"""The borders of the ledger in a simulated process: its clocks, its chance, its threads and its disk are the seed's.

Rules
-----
- Only names that the ledger's modules took from elsewhere are replaced; its own code runs as it is.
- Nothing may depend on where an object lies in memory: keys of leases, which compare by identity, hash by what they say.
"""

import asyncio
import logging
import sys
from asyncio import events
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest import mock
from uuid import UUID

from meterproxy.core.lending import LeaseKey
from meterproxy.ledger.clock import DatabaseClock
from tests.simulation.disk import Os
from tests.simulation.timeline import Loop

RECORD_BYTES = 2048
"""The largest record here, so that segments can be small and a journal soon has many."""


def running() -> Loop:
    """The loop of the process whose code is running."""
    loop = events._get_running_loop()
    assert isinstance(loop, Loop)
    return loop


@contextmanager
def simulated(random: Random, told: Callable[[str, str], None]) -> Iterator[None]:
    """Have the ledger live in virtual time; `told` hears what it logs."""
    values = _replacements(random)
    with ExitStack() as stack:
        for name, module in list(sys.modules.items()):
            if name.startswith("meterproxy.ledger."):
                for attribute in values.keys() & vars(module).keys():
                    stack.enter_context(mock.patch.object(module, attribute, values[attribute]))
        stack.enter_context(mock.patch.object(DatabaseClock, "elapsed_us", staticmethod(values["elapsed_us"])))
        stack.enter_context(mock.patch.object(asyncio, "to_thread", _in_a_moment(random)))
        stack.enter_context(mock.patch.object(LeaseKey, "__hash__", _hash_of_key))
        stack.enter_context(_listening(told))
        yield


def _replacements(random: Random) -> dict[str, Any]:
    system = Os()
    clock = SimpleNamespace(
        time=lambda: running().wall_us() / 1e6,
        time_ns=lambda: running().wall_us() * 1000,
        perf_counter=lambda: running().time(),
    )
    return {
        "elapsed_us": lambda: running().elapsed_us(),
        "uuid4": lambda: UUID(int=random.getrandbits(128), version=4),
        "time": clock,
        "random": random,
        "os": system,
        "fcntl": system,
        "IN_MEMORY": 3,
        "READ_AT_ONCE": 2,
        "MAX_RECORD_BYTES": RECORD_BYTES,
        "TOGETHER_BYTES": 2 * RECORD_BYTES,
        "SLACK_BYTES": 4 * RECORD_BYTES,
    }


def _in_a_moment(random: Random) -> Callable[..., Any]:
    """A thread's work: done at once, but only after a while in which others run."""

    async def to_thread(work: Callable[..., Any], /, *arguments: Any) -> Any:
        await asyncio.sleep(random.choice((0, 0.0005, 0.003)))
        return work(*arguments)

    return to_thread


def _hash_of_key(key: LeaseKey) -> int:
    return hash(key.limit_id.int ^ key.window_start_us)


class _Listener(logging.Handler):
    def __init__(self, told: Callable[[str, str], None]) -> None:
        super().__init__()
        self._told = told

    def emit(self, record: logging.LogRecord) -> None:
        loop = events._get_running_loop()
        text = record.getMessage()
        if record.exc_info:
            text += f": {record.exc_info[1]!r}"
        self._told(loop.name if isinstance(loop, Loop) else "?", f"log {record.levelname.lower()}: {text}")


@contextmanager
def _listening(told: Callable[[str, str], None]) -> Iterator[None]:
    logger, listener = logging.getLogger("meterproxy"), _Listener(told)
    propagates = logger.propagate
    logger.addHandler(listener)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(listener)
        logger.propagate = propagates
