"""The typesetter: makes PDFs in a process of its own, so that no request waits for a page to be set.

`python -m meterproxy.control.typesetter` reads a statement as JSON from its standard input and writes a PDF.
"""

import asyncio
import os
import sys
from collections import Counter
from collections.abc import Iterator
from importlib import resources
from typing import Any, Final
from uuid import UUID

import orjson
from pydantic import BaseModel

from meterproxy.errors import ApiError, Case, MeterproxyError

AT_ONCE: Final = 2
WAITING: Final = 8
WAITING_OF_ACCOUNT: Final = 2
"""So that nobody takes all places."""
SECONDS: Final = 30.0
HANDED_ON: Final = ("PATH", "PYTHONPATH", "LANG", "HOME", "TMPDIR")
"""Of the environment: the master key and the database's address are not the typesetter's."""
BREAK: Final = "\u200b"
"""Where a line may end within a word; it takes no room."""
MOST_SET: Final = 20_000
"""Lines of a statement that is set: about four hundred pages."""


class TypesettingFailed(MeterproxyError):
    """The typesetter could not set what it was given."""


class Typesetter:
    """Sets a few documents at a time."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._asked: Counter[UUID] = Counter()

    async def set(self, account_id: UUID, statement: BaseModel) -> bytes:
        """A PDF of it. Raises ApiError OVERLOADED where too many wait, MALFORMED where it is too long."""
        if len(getattr(statement, "lines", ())) > MOST_SET:
            text = f"The statement has more than {MOST_SET} lines: ask for longer periods, or for CSV."
            raise ApiError(Case.MALFORMED, text, param="period")
        if self._asked.total() >= WAITING or self._asked[account_id] >= WAITING_OF_ACCOUNT:
            raise ApiError(Case.OVERLOADED, "Too many statements are being set right now. Please try again.")
        self._asked[account_id] += 1
        try:
            async with self._turns:
                return await _set(statement.model_dump_json().encode())
        except (TimeoutError, TypesettingFailed) as error:
            raise ApiError(Case.UNAVAILABLE, "The statement could not be set. Please try again.") from error
        finally:
            self._asked[account_id] -= 1
            self._asked += Counter()  # forgets accounts of which nothing waits


async def _set(content: bytes) -> bytes:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __name__,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        env={name: os.environ[name] for name in HANDED_ON if name in os.environ},
    )  # fmt: skip
    try:
        async with asyncio.timeout(SECONDS):
            pdf, _ = await process.communicate(content)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise TypesettingFailed(f"the typesetter ended with {process.returncode}")
    return pdf


def main() -> int:
    """Set what comes in."""
    import typst

    template = resources.files("meterproxy").joinpath("data/statement.typ").read_bytes()
    statement = orjson.loads(sys.stdin.buffer.read())
    for of, name, most in ((statement, "organization", 60), *_names(statement["lines"])):
        of[name] = _breakable(of[name], most)
    sys.stdout.buffer.write(typst.compile(template, sys_inputs={"statement": orjson.dumps(statement).decode()}))
    return 0


def _names(lines: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], str, int]]:
    """What of lines may be longer than its column, and how many letters fit."""
    for line in lines:
        yield line, "provider", 12
        yield line, "model", 30


def _breakable(text: str, most: int) -> str:
    """A text of which long words may be broken anywhere."""
    if len(text) <= most:
        return text
    return " ".join(BREAK.join(word) if len(word) > most else word for word in text.split(" "))


if __name__ == "__main__":
    sys.exit(main())
