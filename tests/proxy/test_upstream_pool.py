"""How many connections there are, for how long, and who gets one."""

import asyncio

import pytest

from meterproxy.proxy.connection import Connection
from meterproxy.proxy.upstream import UpstreamAnswer, UpstreamBroken, UpstreamBusy, UpstreamUnreachable
from tests.proxy.scripted import (
    OK,
    Hands,
    Peer,
    answers,
    client,
    exchange,
    on_each_loop,
    post,
    provider,
    turns_until,
)


class Gate:
    """A provider's script that answers when told to."""

    def __init__(self, *answers: bytes) -> None:
        self._answers = answers or (OK,)
        self.open = asyncio.Event()
        self.asked = asyncio.Event()

    async def __call__(self, peer: Peer) -> None:
        for answer in self._answers:
            await peer.request()
            self.asked.set()
            await self.open.wait()
            await peer.send(answer)
        await peer.closed()


async def refused(waiting: asyncio.Future[UpstreamAnswer]) -> str:
    with pytest.raises(UpstreamBusy) as caught:
        await waiting
    assert not caught.value.sent
    return caught.value.reason


@on_each_loop
async def test_connections_and_the_line_are_bounded() -> None:
    """One works, one waits, the next is told at once; the one in line gets the connection that becomes free."""
    gate = Gate(OK, OK)
    async with provider(gate) as served, client(served, max_connections=1, max_waiting=1) as upstream:
        first = asyncio.ensure_future(exchange(upstream))
        await gate.asked.wait()
        second = asyncio.ensure_future(exchange(upstream))
        await turns_until(lambda: upstream.stats().waiting == 1)
        assert await refused(asyncio.ensure_future(post(upstream))) == "line_full"
        gate.open.set()
        assert [await first, await second] == [b"ok", b"ok"]
        assert upstream.stats() == (1, 1, 0, 1, 1)


@on_each_loop
async def test_the_line_does_not_wait_for_ever() -> None:
    """Nobody stands in it longer than `wait_seconds`, and nobody is left standing in it."""
    gate = Gate()
    async with provider(gate) as served, client(served, max_connections=1, wait_seconds=0.01) as upstream:
        first = asyncio.ensure_future(exchange(upstream))
        await gate.asked.wait()
        assert await refused(asyncio.ensure_future(post(upstream))) == "line_slow"
        assert upstream.stats().waiting == 0
        gate.open.set()
        assert await first == b"ok"


@on_each_loop
async def test_a_closed_connection_frees_its_place() -> None:
    """Whoever is first in line dials into it; those who gave up are passed over."""
    gate = Gate(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
    async with provider(gate, answers(OK, OK)) as served, client(served, max_connections=1) as upstream:
        first = asyncio.ensure_future(exchange(upstream))
        await gate.asked.wait()
        line = [asyncio.ensure_future(exchange(upstream)) for _ in range(3)]
        await turns_until(lambda: upstream.stats().waiting == 3)
        line[0].cancel()
        gate.open.set()
        assert await first == b"ok"
        assert await asyncio.gather(*line[1:]) == [b"ok", b"ok"]
        assert upstream.stats() == (1, 1, 0, 2, 1)


@on_each_loop
async def test_cancelled_in_the_moment_of_being_served() -> None:
    """What was given to one who left in the same step goes to the next in line: a connection, or a place."""

    async def idle(peer: Peer) -> None:
        await peer.closed()

    async with provider(idle, idle) as served, client(served, max_connections=1) as upstream:
        pool = upstream._pool
        connection = await pool.lease()
        for give in (connection.return_unused, lambda: connection.close(UpstreamBroken("cut"))):
            leaving, staying = (asyncio.ensure_future(pool.lease()) for _ in range(2))
            await turns_until(lambda: upstream.stats().waiting == 2)
            give()
            leaving.cancel()
            given = await staying
            assert leaving.cancelled()
            assert upstream.stats()[:3] == (1, 0, 0)
        assert given is not connection
        given.return_unused()
        assert upstream.stats() == (1, 1, 0, 2, 1)


@on_each_loop
async def test_repetition_finds_a_place_when_all_are_taken() -> None:
    """The attempt on a new connection goes to the head of the line and never takes a used connection."""
    gate = Gate()

    async def stale(peer: Peer) -> None:
        await peer.answer(OK)
        await peer.request()
        stuck.set()
        await leave.wait()

    stuck, leave = asyncio.Event(), asyncio.Event()
    async with provider(stale, gate, answers(OK, OK)) as served, client(served, max_connections=1) as upstream:
        await exchange(upstream)
        repeated = asyncio.ensure_future(exchange(upstream))
        await stuck.wait()
        line = [asyncio.ensure_future(exchange(upstream)) for _ in range(2)]
        await turns_until(lambda: upstream.stats().waiting == 2)
        leave.set()
        await gate.asked.wait()
        await turns_until(lambda: upstream.stats().waiting == 2)
        gate.open.set()
        assert [await repeated, await line[0], await line[1]] == [b"ok", b"ok", b"ok"]
        assert upstream.stats() == (1, 1, 0, 3, 2)


async def test_repetition_evicts_an_idle_connection() -> None:
    """With every place taken and one of them idle, that one makes room."""

    async def stale(peer: Peer) -> None:
        await peer.answer(OK)
        await peer.request()
        stuck.set()
        await leave.wait()

    stuck, leave = asyncio.Event(), asyncio.Event()
    gate = Gate(OK, OK)
    async with provider(stale, gate, answers(OK)) as served, client(served, max_connections=2) as upstream:
        await exchange(upstream)
        repeated = asyncio.ensure_future(exchange(upstream))
        await stuck.wait()
        gate.open.set()
        await exchange(upstream)
        assert upstream.stats()[:2] == (2, 1)
        busy = asyncio.ensure_future(post(upstream))
        await busy
        leave.set()
        assert await repeated == b"ok"
        assert upstream.stats()[:2] == (2, 2)


@on_each_loop
async def test_idle_connections_expire() -> None:
    """After 30 s, even if nobody asks for them."""
    clock = Hands()
    async with provider(answers(OK, OK), answers(OK)) as served, client(served, clock=clock) as upstream:
        await exchange(upstream)
        clock.now += 29
        upstream.sweep()
        await exchange(upstream)
        clock.now += 30
        upstream.sweep()
        assert upstream.stats().open == 0
        await exchange(upstream)
        assert upstream.stats() == (1, 1, 0, 2, 1)


@on_each_loop
async def test_old_connections_retire() -> None:
    """After five minutes: from the idle at lending or sweeping, from a request's hands at its end."""
    clock = Hands()
    gate = Gate()
    scripts = (answers(OK), answers(OK), gate, answers(OK))
    async with provider(*scripts) as served, client(served, clock=clock, idle_seconds=1000) as upstream:
        await exchange(upstream)
        clock.now += 300
        await exchange(upstream)
        clock.now += 300
        upstream.sweep()
        assert upstream.stats()[:4] == (0, 0, 0, 2)
        working = asyncio.ensure_future(exchange(upstream))
        await gate.asked.wait()
        clock.now += 300
        upstream.sweep()
        gate.open.set()
        assert await working == b"ok"
        assert upstream.stats().open == 0
        await exchange(upstream)
        assert upstream.stats().reuses == 0


@on_each_loop
async def test_close_ends_everything() -> None:
    """Who waits for an answer, reads one or stands in line is told; nothing is left, and nothing starts."""

    async def streaming(peer: Peer) -> None:
        await peer.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok")
        await peer.closed()

    gate = Gate()
    async with provider(streaming, gate) as served, client(served, max_connections=2) as upstream:
        answer = await post(upstream)
        waiting = asyncio.ensure_future(post(upstream))
        await gate.asked.wait()
        in_line = asyncio.ensure_future(post(upstream))
        await turns_until(lambda: upstream.stats().waiting == 1)
        await upstream.close()
        gate.open.set()
        assert await answer.read() == b"ok"
        with pytest.raises(UpstreamBroken, match="closed"):
            await answer.read()
        with pytest.raises(UpstreamBroken, match="closed"):
            await waiting
        for refused in (in_line, post(upstream)):
            with pytest.raises(UpstreamUnreachable, match="closed"):
                await refused
        assert upstream.stats()[:3] == (0, 0, 0)


@on_each_loop
async def test_a_dial_that_is_cancelled_as_it_succeeds_leaves_nothing_to_wait_for() -> None:
    """An event loop may close such a transport without a word; closing the pool must not wait for that word."""

    async def silent(peer: Peer) -> None:
        await peer.closed()

    async with provider(silent) as served, client(served) as upstream:
        pool = upstream._pool
        opened = pool.opened

        def cancel(connection: Connection) -> None:
            opened(connection)
            asking.cancel()

        pool.opened = cancel  # type: ignore[method-assign]
        asking = asyncio.ensure_future(post(upstream))
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert upstream.stats().open == 0
        await upstream.close()
