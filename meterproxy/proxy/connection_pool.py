"""The connections to one provider: lent out, taken back, bounded, retired.

Rules:
- At most `max_connections` are open or being dialed; at most `max_waiting` requests stand in line, each for at most
  `wait_seconds`. Beyond that: `UpstreamBusy`.
- While somebody waits, nothing is idle: a connection or a free place goes to the head of the line in the same step.
- The most recently used idle connection is lent first, so that the others may expire.
- A place is freed exactly once: when its dial fails, or when its connection says `gone`.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from meterproxy.proxy.connection import Connection
from meterproxy.proxy.upstream_errors import UpstreamBroken, UpstreamBusy, UpstreamUnreachable
from meterproxy.proxy.upstream_origin import Origin

Dial = Callable[[Callable[[], Connection]], Awaitable[Connection]]


class Stats(NamedTuple):
    """Counts for metrics: the first three as of now (`open` includes what is being dialed), the others ever."""

    open: int
    idle: int
    waiting: int
    dials: int
    reuses: int


class _Place(NamedTuple):
    """One in the line; the future gets a connection, or None: a place to dial into."""

    future: asyncio.Future[Connection | None]
    fresh: bool


class ConnectionPool:
    """Lends connections to one origin; fulfils `connection.Keeper`.

    Args:
        origin: whose limits count.
        dial: makes a connected `Connection` from the factory it is given, or raises UpstreamUnreachable.
        clock: monotonic seconds.
    """

    def __init__(self, origin: Origin, dial: Dial, clock: Callable[[], float]) -> None:
        self._origin = origin
        self._dial = dial
        self._clock = clock
        self._idle: dict[Connection, None] = {}
        self._live: set[Connection] = set()
        self._transports: set[Connection] = set()
        self._line: deque[_Place] = deque()
        self._open = 0
        self._dials = 0
        self._reuses = 0
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()

    # Lending.

    def take(self) -> Connection | None:
        """Lend an idle connection without waiting, if there is one."""
        while self._idle:
            connection, _ = self._idle.popitem()
            if not connection.is_old(self._clock()):
                self._reuses += 1
                return connection
            connection.close(UpstreamUnreachable("expired"))
        return None

    async def lease(self, *, fresh: bool = False) -> Connection:
        """Lend a connection, dialing or waiting in line if need be; `fresh` wants one that was never used.

        Raises:
            UpstreamUnreachable: it could not be dialed, or the pool is closed.
            UpstreamBusy: all are in use, and the line is full or did not move in time.
        """
        while not self._closed:
            connection = None if fresh else self.take()
            if connection is not None:
                return connection
            if self._claim_place(fresh=fresh):
                return await self._dial_into_place()
            connection = await self._wait_in_line(fresh=fresh)
            if connection is None:
                return await self._dial_into_place()
            if not connection.closed:  # else it died on its way here: line up again
                self._reuses += 1
                return connection
        raise UpstreamUnreachable("closed", "the provider's client is closed")

    def _claim_place(self, *, fresh: bool) -> bool:
        if self._open >= self._origin.max_connections:
            if not (fresh and self._idle):
                return False
            next(iter(self._idle)).close(UpstreamUnreachable("evicted"))
        self._open += 1
        return True

    async def _dial_into_place(self) -> Connection:
        """Dial within a place that is claimed already."""
        self._dials += 1
        made = Connection(self._origin, self, asyncio.get_running_loop(), self._clock)
        try:
            connection = await self._dial(lambda: made)
            self._admit(connection)
        except BaseException:
            made.close(UpstreamUnreachable("connect"))
            self._transports.discard(made)  # uvloop may close it without a word where the dial was cancelled
            self._free_place()
            raise
        return connection

    def _admit(self, connection: Connection) -> None:
        if self._closed:
            connection.close(UpstreamUnreachable("closed"))
        if connection.closed:
            raise UpstreamUnreachable("connect", "the connection was lost as soon as it was made")
        self._live.add(connection)
        if self._timer is None:
            self._arm()

    # The line.

    async def _wait_in_line(self, *, fresh: bool) -> Connection | None:
        """Wait for a connection, or None: a place claimed for us. Repetitions go to the head of the line."""
        if len(self._line) >= self._origin.max_waiting:
            raise UpstreamBusy("line_full", "all connections to the provider are in use and so is the line for them")
        place = _Place(asyncio.get_running_loop().create_future(), fresh)
        if fresh:
            self._line.appendleft(place)
        else:
            self._line.append(place)
        try:
            async with asyncio.timeout(self._origin.wait_seconds):
                return await place.future
        except BaseException as error:
            self._leave_line(place)
            if isinstance(error, TimeoutError):
                raise UpstreamBusy("line_slow", "no connection to the provider became free in time") from None
            raise

    def _leave_line(self, place: _Place) -> None:
        """Leave without having been served, or pass on what was given in the same moment."""
        if place in self._line:
            self._line.remove(place)
        future = place.future
        if not future.done() or future.cancelled() or future.exception() is not None:
            return
        given = future.result()
        if given is None:
            self._free_place()
        elif not given.closed:
            self.freed(given)

    def _head_of_line(self) -> _Place | None:
        line = self._line
        while line and line[0].future.done():
            line.popleft()
        return line[0] if line else None

    def _free_place(self) -> None:
        place = self._head_of_line()
        if place is None:
            self._open -= 1
        else:
            self._line.popleft()
            place.future.set_result(None)

    # What connections report.

    def freed(self, connection: Connection) -> None:
        """Take a connection back that is fit for another request."""
        if self._closed or connection.is_old(connection.quiet_since):
            connection.close(UpstreamUnreachable("expired"))
            return
        place = self._head_of_line() if self._line else None
        if place is None:
            self._idle[connection] = None
        elif place.fresh:
            connection.close(UpstreamUnreachable("evicted"))  # `gone` gives its place to the head of the line
        else:
            self._line.popleft()
            place.future.set_result(connection)

    def gone(self, connection: Connection) -> None:
        """Free the place of a connection that closed."""
        if connection in self._live:
            self._live.remove(connection)
            self._idle.pop(connection, None)
            self._free_place()

    def opened(self, connection: Connection) -> None:
        """Note a transport that `close` must wait for."""
        self._transports.add(connection)

    def lost(self, connection: Connection) -> None:
        """Note the end of a transport."""
        self._transports.discard(connection)
        if self._closed and not self._transports:
            self._empty.set()

    # Time and the end.

    def _arm(self) -> None:
        origin = self._origin
        shortest = min(origin.first_byte_seconds, origin.between_bytes_seconds, origin.idle_seconds)
        period = max(0.01, min(1.0, shortest / 4))
        self._timer = asyncio.get_running_loop().call_later(period, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.sweep()
        if self._live:
            self._arm()

    def sweep(self) -> None:
        """Close every connection that has been idle, silent or alive too long."""
        now = self._clock()
        for connection in list(self._live):
            connection.check(now)

    def stats(self) -> Stats:
        """Counts for metrics."""
        return Stats(self._open, len(self._idle), len(self._line), self._dials, self._reuses)

    async def close(self) -> None:
        """Close every connection, refuse everybody in line and return when no transport is left."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for place in self._line:
            if not place.future.done():
                place.future.set_exception(UpstreamUnreachable("closed", "the provider's client is closed"))
        self._line.clear()
        for connection in list(self._live):
            connection.close(UpstreamBroken("closed", "the provider's client is closed"))
        if self._transports:
            await self._empty.wait()
