"""Peers: what processes of one host ask each other, over Unix sockets in the host's own directory.

A question is a name, and whatever else is sent until the asker closes its half; the answer is what comes until the end.

Rules
-----
- Whoever asks waits for so long and no longer: a process that is gone or stuck is no answer, never an error.
- Questions are no commands from outside: the directory belongs to this user alone.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

Answer = Callable[[bytes], Awaitable[bytes]]

_log: Final = logging.getLogger(__name__)


async def answer_at(path: Path, answers: Mapping[str, Answer]) -> asyncio.Server:
    """Answer questions by their names, until the server is closed."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            name, _, rest = (await reader.read()).partition(b"\n")
            writer.write(await answers[name.decode()](rest))
            await writer.drain()
        except OSError:
            pass  # the asker is gone
        except Exception as error:  # noqa: BLE001 - whatever keeps us from answering, the asker does without
            _log.warning("a question of another process could not be answered", extra={"error": repr(error)})
        finally:
            writer.close()

    return await asyncio.start_unix_server(serve, path)  # which removes what a killed process has left there


async def ask(path: Path, name: str, seconds: float, rest: bytes = b"") -> bytes | None:
    """Ask whoever answers at `path`; None where nobody does so in time."""
    writer = None
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(name.encode() + b"\n" + rest)
            writer.write_eof()
            return await reader.read() or None
    except (OSError, TimeoutError):
        return None
    finally:
        if writer is not None:
            writer.close()


async def ask_all(paths: list[Path], name: str, seconds: float) -> list[bytes]:
    """Ask several at the same time; the answers of those who gave one."""
    answers = await asyncio.gather(*(ask(path, name, seconds) for path in paths))
    return [answer for answer in answers if answer is not None]
