"""The typesetter: makes PDFs in a process of its own, so that no request waits for a page to be set.

`python -m meterproxy.control.typesetter` reads a statement as JSON from its standard input and writes a PDF.
"""

import asyncio
import sys
from importlib import resources
from typing import Final

from pydantic import BaseModel

from meterproxy.errors import ApiError, Case, MeterproxyError

AT_ONCE: Final = 2
WAITING: Final = 8
SECONDS: Final = 30.0
MOST_LINES: Final = 20_000
"""About four hundred pages."""


class TypesettingFailed(MeterproxyError):
    """The typesetter could not set what it was given."""


class Typesetter:
    """Sets a few documents at a time."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._asked = 0

    async def set(self, statement: BaseModel) -> bytes:
        """A PDF of it. Raises ApiError OVERLOADED where too many wait, MALFORMED where it is too long."""
        if len(getattr(statement, "lines", ())) > MOST_LINES:
            text = f"The statement has more than {MOST_LINES} lines: ask for longer periods, or for CSV."
            raise ApiError(Case.MALFORMED, text, param="period")
        if self._asked >= WAITING:
            raise ApiError(Case.OVERLOADED, "Too many statements are being set right now. Please try again.")
        self._asked += 1
        try:
            async with self._turns:
                return await _set(statement.model_dump_json().encode())
        except (TimeoutError, TypesettingFailed) as error:
            raise ApiError(Case.UNAVAILABLE, "The statement could not be set. Please try again.") from error
        finally:
            self._asked -= 1


async def _set(content: bytes) -> bytes:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __name__, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
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
    sys.stdout.buffer.write(typst.compile(template, sys_inputs={"statement": sys.stdin.read()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
