"""Hostile requests against a whole proxy on bare sockets: each is told off in OpenAI's shape and leaves no trace."""

import asyncio
import logging
import socket
import struct
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from aiohttp import web

from meterproxy.proxy.server_limits import ServerLimits
from meterproxy.proxy.settings import ExchangeSettings
from tests.proxy import raw
from tests.proxy.fakes import SECRET
from tests.proxy.hostile import BODIES, CLOSE, NOTE, ROWS, Hostile
from tests.proxy.house import House, built, chat, request

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECONDS = 20
"""Nothing that is sent here may take longer."""
BODY_BYTES = 8 << 20
DRIPPED_BYTES = 1500
"""Longer requests are not sent byte by byte."""
WHOLE = frozenset({*BODIES, "key", "field", "target"})
"""Sections whose rows are whole requests, so that another may follow."""
MODELS = request("/v1/models", method="GET")
GOOD = request("/v1/chat/completions", chat("tokens=2"))


async def nothing(_request: web.BaseRequest) -> web.StreamResponse:
    """What the service says of paths outside of the data plane that nobody serves."""
    raise web.HTTPNotFound


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house() -> AsyncIterator[House]:
    """One house for all: whatever a hostile client does, the next finds it as it was."""
    async with built(ExchangeSettings(max_body_bytes=BODY_BYTES), other=nothing) as made:
        made.ledger.balance_nanos = 10**15
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hasty(house: House) -> AsyncIterator[House]:
    """A house that does not wait for long."""
    limits = ServerLimits(head_seconds=0.03, body_gap_seconds=0.03, keepalive_seconds=1.0)
    async with built(other=nothing, limits=limits) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def good(house: House) -> AsyncIterator[raw.Raw]:
    """Another client, whose connection lives through all of it."""
    async with house.client() as connection:
        yield connection


def rows(*sections: str, but: tuple[str, ...] = ()) -> pytest.MarkDecorator:
    chosen = [row for row in ROWS if (row.section in sections) or (not sections and row.section not in but)]
    return pytest.mark.parametrize("row", chosen, ids=lambda row: f"{row.section}: {row.name}")


async def be_served(good: raw.Raw) -> None:
    """A good request on another connection gets its answer."""
    good.send(GOOD)
    assert (await good.answer()).status == 200


async def reset(connection: raw.Raw) -> None:
    """Vanish as a crashed client does."""
    sock = connection.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.writer.transport.abort()


async def heard(connection: raw.Raw, row: Hostile) -> bytes:
    """Read what may be answered, then close our half; all that came until the end."""
    try:
        answer = await connection.answer()
    except asyncio.IncompleteReadError as error:
        return closed(row, error.partial)
    except ConnectionError:
        return closed(row)
    assert str(answer.status) in row.answers, (row, answer)
    assert answer.error["type"] == "invalid_request_error"
    assert "server" not in answer.headers
    assert "x-meterproxy-request-id" in answer.headers or answer.status == 404, "a refusal that nobody could ask about"
    assert answer.body.decode().isprintable()
    if row.section in WHOLE and answer.headers.get("connection") != "close":
        connection.send(MODELS)
        assert (await connection.answer()).status == 200, "the next request on the connection was not understood"
    if connection.writer.can_write_eof() and not connection.writer.transport.is_closing():
        connection.writer.write_eof()
    assert await connection.reader.read() == b"", "a second answer to one request"
    return str(answer).encode()


def closed(row: Hostile, partial: bytes = b"") -> bytes:
    """The connection ended without an answer."""
    assert CLOSE in row.answers, row
    assert not partial
    return b""


async def check(house: House, good: raw.Raw, row: Hostile, pieces: list[bytes]) -> bytes:
    """Send a row and see that nothing comes of it but its refusal; what was heard."""
    ledger = house.ledger
    before, placed = ledger.balance_nanos, len(ledger.rows)
    async with asyncio.timeout(SECONDS), house.client() as connection:
        for piece in pieces:
            connection.send(piece)
            if len(pieces) > 1:
                await asyncio.sleep(0)
        if row.section == "halved":
            connection.writer.write_eof()
        await be_served(good)
        said = await heard(connection, row)
        await house.ended()
    booked = ledger.rows[placed:]
    assert sum(entry.amount_nanos for entry in booked) == before - ledger.balance_nanos
    assert [entry.outcome for entry in booked if entry.amount_nanos] == ["completed"]
    assert not ledger.open
    assert house.exchanges.house.room.taken_bytes == 0
    return said


def without_trace(said: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing of the client's bytes was answered or logged, and nothing is wrong with us."""
    assert NOTE not in said
    assert NOTE.decode() not in caplog.text
    assert SECRET not in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@rows(but=("waiting",))
async def test_in_one_piece(house: House, good: raw.Raw, row: Hostile, caplog: pytest.LogCaptureFixture) -> None:
    """A hostile request is refused in its shape, and nothing is charged, held, echoed, logged or delayed."""
    caplog.set_level(logging.DEBUG)
    without_trace(await check(house, good, row, [row.sent(SECRET)]), caplog)


@rows("request", "field", "typed", "halved")
async def test_byte_by_byte(house: House, good: raw.Raw, row: Hostile, caplog: pytest.LogCaptureFixture) -> None:
    """The same if it comes in single bytes: no parser may read the pieces otherwise."""
    caplog.set_level(logging.DEBUG)
    sent = row.sent(SECRET)
    pieces = [sent[place : place + 1] for place in range(len(sent))] if len(sent) < DRIPPED_BYTES else [sent]
    without_trace(await check(house, good, row, pieces), caplog)


@rows("waiting")
async def test_not_waited_for(hasty: House, row: Hostile, caplog: pytest.LogCaptureFixture) -> None:
    """A client that stops in the middle is told off in time, and others are served meanwhile."""
    caplog.set_level(logging.DEBUG)
    async with hasty.client() as other:
        without_trace(await check(hasty, other, row, [row.sent(SECRET)]), caplog)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("body", [chat("tokens=20,delay=0.02"), chat("tokens=20,slow=0.005", stream=True)])
async def test_reset_while_asking(house: House, good: raw.Raw, body: dict, share: float, caplog) -> None:
    """A client that vanishes in its head, in its body or while it waits leaves no hold, and pays for what was asked."""
    sent = request("/v1/chat/completions", body)
    before, booked = house.ledger.balance_nanos, len(house.ledger.rows)
    async with asyncio.timeout(SECONDS):
        async with house.client() as connection:
            connection.send(sent[: int(len(sent) * share)])
            await be_served(good)
            await reset(connection)
        await be_served(good)
        await house.ended()
    entries = house.ledger.rows[booked:]
    assert len(entries) == (3 if share == 1 else 2)
    assert sum(entry.amount_nanos for entry in entries) == before - house.ledger.balance_nanos
    assert not house.ledger.open
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("events", [0, 1, 5])
async def test_reset_in_mid_answer(house: House, good: raw.Raw, events: int, caplog) -> None:
    """A client that vanishes in a stream ends its hold once."""
    booked = len(house.ledger.rows)
    async with asyncio.timeout(SECONDS):
        async with house.client() as connection:
            connection.send(request("/v1/chat/completions", chat("tokens=20,slow=0.005", stream=True)))
            await connection.head()
            for _ in range(events):
                await connection.chunk()
            await reset(connection)
        await be_served(good)
        await house.ended()
    assert sorted(entry.outcome for entry in house.ledger.rows[booked:]) == ["client_left", "completed"]
    assert not house.ledger.open
    assert house.exchanges.house.leavers.count == 0
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_bodies_over_the_limit_that_nobody_declared(house: House, good: raw.Raw) -> None:
    """A body in chunks is counted as it comes, and refused when it is too much."""
    piece = b"10000\r\n" + b"a" * 0x10000 + b"\r\n"
    row = Hostile("huge", "undeclared", frozenset({"413"}), "$postTransfer-Encoding: chunked⏎⏎")
    pieces = [row.sent(SECRET), *[piece] * (BODY_BYTES // 0x10000 + 1), b"0\r\n\r\n"]
    assert NOTE not in await check(house, good, row, pieces)


@pytest.mark.parametrize("options", [[], "include_usage", True, {"include_usage": "yes"}, {"include_usage": 1}])
async def test_options_are_judged_before_anything_is_held(house: House, options: object) -> None:
    """What says how a stream tells its usage is read with the request, not when it is forwarded."""
    placed = len(house.ledger.placed)
    answer = await house.ask(body=chat(stream=True, stream_options=options))
    assert (answer.status, len(house.ledger.placed)) == (400, placed)
    assert answer.error["param"] in {"stream_options", "include_usage"}


async def test_there_are_enough() -> None:
    """The table is as long as it promises, and no row stands there twice."""
    assert len({(row.section, row.wire) for row in ROWS}) == len(ROWS) >= 200
