"""The tokenizer helper: `python -m meterproxy.runtime.tokenizer_process SOCKET`, one process per host.

Rules
-----
- Texts of all questions are counted in pieces, taking turns, so that a long one does not keep short ones waiting.
- At most `MAX_REQUESTS` questions and `MAX_BYTES` bytes are held, over all workers; further ones are read past and
  answered "not counted".
- It ends with its supervisor, and it never writes a text anywhere.

Memory: about 105 MB with `o200k_base`, which is loaded at the start (0.2 s); `cl100k_base`
adds 40 MB when it is first asked for.
"""

import asyncio
import os
import signal
import sys
from contextlib import suppress
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Final

import msgspec
import tiktoken

from meterproxy.core.vocabulary import FALLBACK, encoding_from, pieces, vocabulary_of
from meterproxy.runtime import parent
from meterproxy.runtime.tokenizer import ANSWER, HEADER, Question

MAX_REQUESTS: Final = 512
MAX_BYTES: Final = 128 * 2**20
_SKIP_BYTES: Final = 65_536
_DECODER: Final = msgspec.msgpack.Decoder(Question)


@cache
def encoding(name: str) -> tiktoken.Encoding:
    """The vocabulary of that name, from this package's own data."""
    return encoding_from(files("meterproxy").joinpath("data", "encodings", f"{name}.tiktoken").read_bytes(), name)


async def count(question: Question) -> tuple[int, bool]:
    """Tokens of all texts of a question, letting other questions have a turn after every piece."""
    name, exact = vocabulary_of(question.model)
    total = 0
    for text in question.texts:
        for piece in pieces(text.decode("utf-8", "replace")):
            total += len(encoding(name).encode_ordinary(piece))
            await asyncio.sleep(0)
    return total, exact


class Tokenizer:
    """The questions that are being counted, over all connections."""

    def __init__(self, max_requests: int = MAX_REQUESTS, max_bytes: int = MAX_BYTES) -> None:
        self._free_requests = max_requests
        self._free_bytes = max_bytes

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one worker until it goes; then drop what it still waited for."""
        with suppress(asyncio.CancelledError):  # this process ends; asyncio's streams would put that into the log
            await self._serve(reader, writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    number, size = HEADER.unpack(await reader.readexactly(HEADER.size))
                    if self._free_requests and size <= self._free_bytes:
                        self._take(1, size)
                        body = await self._body(reader, size)
                        tasks.create_task(self._answer(number, body, writer))
                    else:
                        await _skip(reader, size)
                        writer.write(ANSWER.pack(number, -1, False))
        except* (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _body(self, reader: asyncio.StreamReader, size: int) -> bytes:
        try:
            return await reader.readexactly(size)
        except BaseException:
            self._take(-1, -size)
            raise

    async def _answer(self, number: int, body: bytes, writer: asyncio.StreamWriter) -> None:
        tokens, exact = -1, False
        try:
            question = _DECODER.decode(body)
            async with asyncio.timeout(question.deadline_ms / 1000):
                tokens, exact = await count(question)
        except (msgspec.DecodeError, TimeoutError):
            pass
        finally:
            self._take(-1, -len(body))
        writer.write(ANSWER.pack(number, tokens, exact))
        await writer.drain()

    def _take(self, requests: int, size: int) -> None:
        self._free_requests -= requests
        self._free_bytes -= size


async def _skip(reader: asyncio.StreamReader, size: int) -> None:
    while size > 0:
        size -= len(await reader.readexactly(min(size, _SKIP_BYTES)))


async def _run(path: Path) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    parent.on_parent_gone(stop.set)
    encoding(FALLBACK)
    server = await asyncio.start_unix_server(Tokenizer().serve, path)  # replaces a socket that was left behind
    parent.say_ready()
    await stop.wait()
    server.close()


def main() -> None:
    """Serve until SIGTERM or until the supervisor is gone."""
    parent.die_with_parent()
    os.umask(0o077)
    asyncio.run(_run(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
