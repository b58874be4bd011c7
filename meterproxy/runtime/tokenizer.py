"""The tokenizer as a worker sees it: a helper process of the host, asked over a Unix socket.

Rules
-----
- Nothing waits for long and nothing piles up: at most `MAX_REQUESTS` counts and `MAX_BYTES` bytes are on their way
  from one worker, each with a deadline. Whatever does not fit, comes late or gets lost is None, and the caller
  estimates from bytes.
- Texts of megabytes are several questions, with turns of others in between.
- A lost connection is made again by the next question.
- Counting is the helper's: this module never loads a vocabulary.
"""

import asyncio
import logging
import struct
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from meterproxy.core.vocabulary import valid_text
from meterproxy.runtime.keeping import cancelled
from meterproxy.runtime.part import ChildSpec

MAX_REQUESTS: Final = 64
MAX_BYTES: Final = 32 * 2**20
QUESTION_BYTES: Final = 1 << 20
"""Texts of more bytes are sent as several questions: encoding and sending one takes a millisecond or two."""
TEXT_COST_BYTES: Final = 1 << 7
"""What a text costs beyond its length."""
MODEL_CHARACTERS: Final = 256

HEADER: Final = struct.Struct(">QI")
"""Goes before every question: its number and the bytes of its body."""
ANSWER: Final = struct.Struct(">Qq?")
"""The question's number, tokens (-1: not counted), whether the vocabulary is the model's own."""

_log = logging.getLogger(__name__)


class Question(msgspec.Struct, array_like=True, frozen=True):
    """What to count: `texts` are UTF-8; the helper gives up after `deadline_ms`."""

    deadline_ms: int
    model: str
    texts: list[bytes]


def tokenizer_spec(socket_path: Path) -> ChildSpec:
    """The helper process as a part for the supervisor."""
    command = (sys.executable, "-m", "meterproxy.runtime.tokenizer_process", str(socket_path))
    return ChildSpec("tokenizer", command, stop_seconds=5.0)


class _Asked(NamedTuple):
    """A question that was sent, `size` bytes of text, and its answer to come."""

    number: int
    size: int
    answer: asyncio.Future[tuple[int, bool] | None]


async def _batches(texts: Sequence[str]) -> AsyncIterator[list[bytes]]:
    """The texts as UTF-8, as much at a time as may be sent in one question; others have a turn in between."""
    batch: list[bytes] = []
    size = 0
    for text in texts:
        if batch and size + len(text) > QUESTION_BYTES:
            yield batch
            batch, size = [], 0
            await asyncio.sleep(0)
        batch.append(valid_text(text).encode())
        size += len(batch[-1]) + TEXT_COST_BYTES
    yield batch


def _sum(answers: list[tuple[int, bool] | None]) -> tuple[int, bool] | None:
    counted = [answer for answer in answers if answer is not None]
    if len(counted) < len(answers):
        return None
    return sum(tokens for tokens, _ in counted), all(exact for _, exact in counted)


class TokenizerClient:
    """Asks the helper at `path`; any number of questions at a time over one connection."""

    def __init__(self, path: Path, deadline_seconds: float = 10.0) -> None:
        self._path = path
        self._deadline_seconds = deadline_seconds
        self._waiting: dict[int, asyncio.Future[tuple[int, bool] | None]] = {}
        self._bytes = 0
        self._counts = 0
        self._last_number = 0
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()

    async def count(self, model: str, texts: Sequence[str]) -> tuple[int, bool] | None:
        """Tokens of the texts, and whether the vocabulary is the model's own; None where they were not counted."""
        if self._counts >= MAX_REQUESTS or not self._has_room(sum(map(len, texts))):
            return None
        self._counts += 1
        asked: list[_Asked] = []
        try:
            async with asyncio.timeout(self._deadline_seconds):
                async for batch in _batches(texts):
                    if not self._has_room(sum(map(len, batch))):
                        return None
                    asked.append(await self._ask(model, batch))
                return _sum([await question.answer for question in asked])
        except (OSError, TimeoutError):
            return None
        finally:
            self._counts -= 1
            for question in asked:
                self._forget(question)

    async def _ask(self, model: str, texts: list[bytes]) -> "_Asked":
        """Send a question. Raises OSError."""
        self._last_number += 1
        answer: asyncio.Future[tuple[int, bool] | None] = asyncio.get_running_loop().create_future()
        question = _Asked(self._last_number, sum(map(len, texts)), answer)
        self._waiting[question.number] = answer
        self._bytes += question.size
        try:
            writer = await self._connection()
            deadline_ms = int(self._deadline_seconds * 1000)
            _send(writer, question.number, Question(deadline_ms, model[:MODEL_CHARACTERS], texts))
        except BaseException:
            self._forget(question)
            raise
        return question

    def _forget(self, question: "_Asked") -> None:
        del self._waiting[question.number]
        self._bytes -= question.size

    async def close(self) -> None:
        """Give the connection up; questions on their way are answered None."""
        if self._reading is not None:
            await cancelled([self._reading])

    def _has_room(self, size: int) -> bool:
        return self._bytes + size <= MAX_BYTES

    async def _connection(self) -> asyncio.StreamWriter:
        async with self._connecting:
            if self._writer is None:
                reader, self._writer = await asyncio.open_unix_connection(self._path)
                self._reading = asyncio.create_task(self._read(reader, self._writer), name="tokenizer answers")
            return self._writer

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                number, tokens, exact = ANSWER.unpack(await reader.readexactly(ANSWER.size))
                waiting = self._waiting.get(number)
                if waiting is not None and not waiting.done():
                    waiting.set_result(None if tokens < 0 else (tokens, exact))
        except (OSError, asyncio.IncompleteReadError):
            _log.warning("the tokenizer has gone; %d questions are left to estimates", len(self._waiting))
        finally:
            self._writer = None
            writer.close()
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_result(None)


def _send(writer: asyncio.StreamWriter, number: int, question: Question) -> None:
    body = msgspec.msgpack.encode(question)
    writer.writelines((HEADER.pack(number, len(body)), body))
