"""Load: raw connections that send fixed requests and wait for whole answers.

Run as a process of its own, so that it can have its own core: `python -m bench.load '<JSON of Plan>'` prints one line
of JSON with a `Result`; with `hold_open` it prints a line when all streams are open and keeps them until it is ended.
"""

import asyncio
import json
import sys
import time
from array import array
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Final, cast

import uvloop

from bench import exchanges
from bench.processes import pin, raise_file_limit

_END_OF_HEAD: Final = b"\r\n\r\n"
_LAST_CHUNK: Final = b"0\r\n\r\n"
_LENGTH: Final = b"content-length:"
_OPENED_AT_ONCE: Final = 100
_DEADLINE_SECONDS: Final = 30.0
_LAST_ANSWER_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send, where, how often; `rate` 0 sends as fast as answers come, else so many requests a second."""

    port: int
    key: str
    seconds: float
    connections: int = 32
    stream: bool = False
    warm_up_seconds: float = 0.5
    rate: float = 0.0
    prompt_bytes: int = 0
    filler: str = "rivers"
    hold_open: bool = False
    cpu: int | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What came back: rates over the measured seconds, `total` requests with the warm-up, times in milliseconds."""

    per_second: float
    total: int
    errors: int
    error: str
    p50_ms: float
    p99_ms: float
    highest_ms: float
    first_byte_p50_ms: float
    first_byte_p99_ms: float


class Connection(asyncio.Protocol):
    """One connection: sends, waits for the whole answer, tells its owner, sends again."""

    def __init__(self, owner: "Load") -> None:
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._head = b""
        self._left = 0
        self._tail = b""
        self.answering = False
        self._sent_at = 0.0
        self._first_at = 0.0
        self._due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self.answering:
            self._owner.failed(f"connection lost: {exc}")

    def start(self, due: float) -> None:
        """Send the first request at this time of the loop's clock."""
        self._due = due
        self._loop.call_at(due, self._send)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _send(self) -> None:
        if self._transport is None or self._owner.ended:
            return
        self.answering = True
        self._head = b""
        self._first_at = 0.0
        self._sent_at = time.perf_counter()
        self._transport.write(self._owner.request)

    def data_received(self, data: bytes) -> None:
        if not self._first_at:
            self._first_at = time.perf_counter()
        if self._left:
            self._left -= len(data)
            if self._left <= 0:
                self._whole()
        elif self._tail:
            self._tail = data[-5:] if len(data) >= 5 else (self._tail + data)[-5:]
            if self._tail == _LAST_CHUNK:
                self._whole()
        else:
            self._begin(data)

    def _begin(self, data: bytes) -> None:
        self._head += data
        head, end, body = self._head.partition(_END_OF_HEAD)
        if not end:
            return
        if not head.startswith(b"HTTP/1.1 200"):
            self._owner.failed((head[:40] + b" ... " + body[:200]).decode(errors="replace"))
        self._owner.first_byte()
        lowered = head.lower()
        at = lowered.find(_LENGTH)
        if at < 0:
            self._tail = (b"....." + body)[-5:]
            if self._tail == _LAST_CHUNK:
                self._whole()
            return
        self._left = int(lowered[at + len(_LENGTH) :].split(b"\r\n", 1)[0]) - len(body)
        if self._left <= 0:
            self._whole()

    def _whole(self) -> None:
        self._left, self._tail, self.answering = 0, b"", False
        now = time.perf_counter()
        self._owner.answered(now - self._sent_at, self._first_at - self._sent_at)
        if not self._owner.interval:
            self._send()
            return
        self._due = max(self._due + self._owner.interval, self._loop.time() - self._owner.interval)
        self._loop.call_at(self._due, self._send)


class Load:
    """All connections of one plan, and what they saw."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.request = exchanges.request_bytes(
            host=f"127.0.0.1:{plan.port}",
            key=plan.key,
            stream=plan.stream or plan.hold_open,
            prompt_bytes=plan.prompt_bytes,
            filler=plan.filler,
            hold=plan.hold_open,
        )
        self.interval = plan.connections / plan.rate if plan.rate else 0.0
        self.ended = False
        self._measuring = False
        self._total = 0
        self._opened = 0
        self._errors = 0
        self._error = ""
        self._times = array("d")
        self._first_times = array("d")
        self._progress = asyncio.Event()

    def answered(self, seconds: float, first_seconds: float) -> None:
        self._total += 1
        if self.ended:
            self._progress.set()
        if self._measuring:
            self._times.append(seconds)
            self._first_times.append(first_seconds)

    def first_byte(self) -> None:
        self._opened += 1
        self._progress.set()

    def failed(self, error: str) -> None:
        self._errors += 1
        self._error = self._error or error
        self._progress.set()

    async def run(self) -> Result:
        """Send for the plan's time."""
        connections = [await self._connect() for _ in range(self._plan.connections)]
        now = asyncio.get_running_loop().time()
        for at, connection in enumerate(connections):
            connection.start(now + at * self.interval / len(connections))
        await asyncio.sleep(self._plan.warm_up_seconds)
        self._measuring, started = True, time.perf_counter()
        await asyncio.sleep(self._plan.seconds)
        self._measuring, elapsed = False, time.perf_counter() - started
        self.ended = True
        await self._until_idle(connections)
        for connection in connections:
            connection.close()
        return self._result(elapsed)

    async def _until_idle(self, connections: list[Connection]) -> None:
        """Let the last answers come, so that no request of a run ends as a client that left."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_ANSWER_SECONDS):
                while any(connection.answering for connection in connections):
                    self._progress.clear()
                    await self._progress.wait()

    async def hold(self) -> None:
        """Open the plan's streams and keep them open; prints how many there are, then waits for ever."""
        connections: list[Connection] = []
        while len(connections) < self._plan.connections and not self._errors:
            more = min(_OPENED_AT_ONCE, self._plan.connections - len(connections))
            fresh = [await self._connect() for _ in range(more)]
            connections.extend(fresh)
            for connection in fresh:
                connection.start(asyncio.get_running_loop().time())
            await self._until_opened(len(connections))
        print(json.dumps({"opened": self._opened, "error": self._error}), flush=True)
        await asyncio.Event().wait()

    async def _until_opened(self, wanted: int) -> None:
        try:
            async with asyncio.timeout(_DEADLINE_SECONDS):
                while self._opened < wanted and not self._errors:
                    self._progress.clear()
                    await self._progress.wait()
        except TimeoutError:
            self.failed(f"no first byte within {_DEADLINE_SECONDS:g} s")

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: Connection(self), "127.0.0.1", self._plan.port)
        return connection

    def _result(self, elapsed: float) -> Result:
        times, first_times = sorted(self._times), sorted(self._first_times)
        return Result(
            per_second=len(times) / elapsed,
            total=self._total,
            errors=self._errors,
            error=self._error,
            p50_ms=_share(times, 0.50),
            p99_ms=_share(times, 0.99),
            highest_ms=_share(times, 1.0),
            first_byte_p50_ms=_share(first_times, 0.50),
            first_byte_p99_ms=_share(first_times, 0.99),
        )


def _share(ordered: list[float], share: float) -> float:
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] * 1000 if ordered else float("nan")


async def _main(plan: Plan) -> None:
    load = Load(plan)
    if plan.hold_open:
        await load.hold()
    result: dict[str, Any] = asdict(await load.run())
    print(json.dumps(result), flush=True)


def main() -> None:
    plan = Plan(**json.loads(sys.argv[1]))
    pin(plan.cpu)
    raise_file_limit()
    uvloop.run(_main(plan))


if __name__ == "__main__":
    main()
