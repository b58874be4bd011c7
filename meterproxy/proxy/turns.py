"""Turns: what takes long on the event loop is done in steps, and between two of them everybody else has a turn.

Rules
-----
- One thing at a time is done in steps, in the order in which they were begun: between two turns of others there is one
  step, however many large bodies have come.
"""

import asyncio
from collections.abc import Generator
from typing import TypeVar

Result = TypeVar("Result")


class Turns:
    """The one place in a worker where long work is done."""

    __slots__ = ("_line", "steps")

    def __init__(self) -> None:
        self._line = asyncio.Lock()
        self.steps = 0
        """Steps taken so far."""

    async def take(self, work: Generator[None, None, Result]) -> Result:
        """Do the work step by step; what it raises, this raises."""
        async with self._line:
            while True:
                try:
                    next(work)
                except StopIteration as done:
                    result: Result = done.value
                    return result
                self.steps += 1
                await asyncio.sleep(0)
