"""Adaptive holds under attack: whatever a stream says, and however it ends, by itself it costs no more than was held."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import orjson
import pytest

from meterproxy.proxy.settings import ExchangeSettings
from meterproxy.proxy.stream import StreamRelay
from meterproxy.proxy.token_counts import at_most
from tests.proxy.fakes import FakeCounter, FakeLedger
from tests.proxy.house import House, built, chat, request
from tests.proxy.scripted import Peer, provider
from tests.proxy.test_adaptive import CREDIT, Crowded, exposed_key

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def event(delta: dict[str, Any], **members: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": None, **members}
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o", "choices": [choice]}
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


def framed(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


@asynccontextmanager
async def facing(
    pieces: Sequence[bytes], *, ledger: FakeLedger | None = None, settings: ExchangeSettings | None = None
) -> AsyncIterator[tuple[House, asyncio.Event]]:
    """A house before a provider that streams these pieces, the first at once, the rest when it is told to go on."""
    go_on = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(HEAD + framed(pieces[0]))
        await go_on.wait()
        try:
            for piece in pieces[1:]:
                await peer.send(framed(piece))
            await peer.send(framed(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        except ConnectionError:
            return
        await peer.closed()

    books = ledger or FakeLedger(balance_nanos=CREDIT)
    async with (
        provider(script) as served,
        built(
            settings or ExchangeSettings(adaptive=True),
            key=exposed_key(),
            ledger=books,
            provider_url=f"http://127.0.0.1:{served.port}/v1",
        ) as house,
    ):
        yield house, go_on
        go_on.set()
        await house.ended()
        await house.exchanges.close()


ASKED = chat(stream=True, max_tokens=16000)
WORDS = "alpha beta gamma delta " * 40


@pytest.mark.parametrize(
    "deltas",
    [
        [{"content": WORDS}] * 40,
        [{"refusal": WORDS}] * 40,
        [{"reasoning_content": WORDS}] * 40,
        [{"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": WORDS}}]}] * 40,
        [{"tool_calls": [{"index": 0, "custom": {"name": "f", "input": WORDS}}]}] * 40,
        [{"tool_calls": [{"index": number, "function": {"name": WORDS, "arguments": ""}}]} for number in range(40)],
        [{"content": "ᚠᛇᚻ᛫ᛒᛦᚦ" * 40}] * 60,
        [{"content": WORDS * 1400}] + [{"content": WORDS}] * 3,
    ],
    ids="text refusal reasoning arguments custom names runes one-long".split(),
)
async def test_whatever_it_says_in_it_is_held(deltas: list[dict[str, Any]]) -> None:
    """Of every kind of text that is counted in the end, also where its events come in one piece."""
    async with facing([b"".join(map(event, deltas))]) as (house, go_on):
        go_on.set()
        await house.ask(body=ASKED)
        await house.ended()
        (row,) = house.ledger.rows
        assert row.outcome == "stopped_by_limit"
        assert row.amount_nanos <= row.hold_nanos <= CREDIT
        assert house.ledger.balance_nanos >= 0


async def test_what_is_read_on_for_who_has_left_is_held_too() -> None:
    """A client that leaves while a long piece is on its way overspends nothing."""
    pieces = [event({"content": "so"}), b"".join([event({"content": WORDS})] * 60)]
    async with facing(pieces) as (house, go_on):
        async with house.client() as connection:
            connection.send(request("/v1/chat/completions", ASKED))
            await connection.head()
            await connection.chunk()
        go_on.set()
        await house.ended()
        (row,) = house.ledger.rows
        assert row.outcome == "client_left"
        assert row.amount_nanos <= row.hold_nanos <= CREDIT


async def test_credit_that_comes_back_meanwhile_is_used() -> None:
    """A refusal of a while ago is no reason to end a stream."""
    first = b"".join([event({"content": WORDS})] * 2)
    pieces = [first, *[b"".join([event({"content": WORDS})] * 4)] * 3]

    class Lean(FakeLedger):
        """What it has comes by borrowing only."""

        lent = 0
        pot = 0

        def extend(self, hold: Any, more_nanos: int) -> bool:
            return more_nanos <= self.lent and super().extend(hold, more_nanos)

        async def make_room(self, hold: Any, more_nanos: int) -> bool:
            self.lent = max(self.lent, min(more_nanos, self.pot))
            return more_nanos <= self.lent

    books = Lean(balance_nanos=10**12)
    async with facing(pieces, ledger=books) as (house, go_on):
        async with house.client() as connection:
            connection.send(request("/v1/chat/completions", ASKED))
            await connection.head()
            await connection.chunk()
            await connection.chunk()
            books.pot = 10**12
            go_on.set()
            body = await connection.answer_body()
        assert b'"length"' not in body
        await house.ended()
        assert house.ledger.rows[0].outcome == "completed"


async def test_a_tokenizer_that_goes_away_makes_nothing_dearer_than_was_held() -> None:
    """What it has counted on the way bounds what bytes would say in the end."""
    pieces = [b"".join([event({"content": WORDS})] * 4)] * 10
    async with facing(pieces) as (house, go_on):
        asked = 0
        count = house.counter.count

        async def until_near_the_end(model: str, texts: Sequence[str]) -> tuple[int, bool] | None:
            nonlocal asked
            asked += 1
            house.counter.away = house.counter.away or sum(map(len, texts)) > 8000  # it is asked about all of it
            return await count(model, texts)

        house.counter.count = until_near_the_end  # type: ignore[method-assign]
        go_on.set()
        await house.ask(body=ASKED)
        await house.ended()
        (row,) = house.ledger.rows
        assert asked > 1
        assert (row.outcome, row.source) == ("stopped_by_limit", "estimated")
        assert row.amount_nanos <= row.hold_nanos <= CREDIT


async def test_empty_events_are_no_output() -> None:
    """What is charged without asking anybody, where a stream must end at once, is not above what was held either."""
    pieces = [event({"content": "so"}) + event({"content": ""}) * 5000]
    async with facing(pieces) as (house, _go_on):
        async with house.client() as connection:
            connection.send(request("/v1/chat/completions", ASKED))
            await connection.head()
            received = b""
            while received.count(b"data:") < 5001:
                received += await connection.chunk()
            (exchange,) = house.exchanges.open
            assert isinstance(exchange.relay, StreamRelay)
            exchange.relay.resolve()
            (row,) = house.ledger.rows
            assert row.usage.output < 2000
            assert row.amount_nanos <= row.hold_nanos <= CREDIT


async def test_a_stream_that_is_stopped_within_a_very_long_event_still_ends_as_one() -> None:
    """What we say goes between events."""
    half = b": " + b"x" * 600_000 + b"\n" + event({"content": WORDS * 1300})[:600_000]
    async with facing([half, b"y" * 600_000]) as (house, go_on):
        go_on.set()
        answer = await house.ask(body=ASKED)
        *_, last, done, _ = answer.body.decode().split("\n\n")
        assert orjson.loads(last.removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
        assert done == "data: [DONE]"


async def test_a_compressed_answer_is_held_from_what_there_is_anywhere() -> None:
    """It cannot be cut off, so all of it is borrowed before it begins."""

    class Elsewhere(FakeLedger):
        """Other workers have leased what this one lacks."""

        asked = False

        def extend(self, hold: Any, more_nanos: int) -> bool:
            return self.asked and super().extend(hold, more_nanos)

        async def make_room(self, hold: Any, more_nanos: int) -> bool:
            self.asked = True
            return True

    books = Elsewhere()
    async with built(ExchangeSettings(adaptive=True), key=exposed_key(), ledger=books) as house:
        body = chat("tokens=1000,compress=gzip", stream=True, max_tokens=16000)
        assert (await house.ask(body=body)).status == 200
        await house.ended()
        (row,) = books.rows
        assert (row.outcome, row.amount_nanos <= row.hold_nanos) == ("completed", True)


@pytest.mark.parametrize("text", ["1234567890" * 30, "ᚠᛇᚻ᛫ᛒᛦᚦ" * 30, "नमस्ते" * 30])
async def test_another_tokenizer_may_take_digits_and_foreign_letters_one_by_one(text: str) -> None:
    """What is counted by a tokenizer that is not the model's own covers that; the model's own says what it is."""
    counter = FakeCounter()
    foreign = await at_most(counter, "llama-2-70b", [text], 1.0)
    own = await at_most(counter, "gpt-4o", [text], 1.0)
    assert foreign is not None
    assert own is not None
    assert foreign >= len(text.encode()) >= own
    assert await at_most(counter, "llama-2-70b", ["plain words " * 100], 1.0) < 600  # type: ignore[operator]


async def test_what_would_fit_but_for_what_others_expose_is_held_not_spent() -> None:
    """Also where the exposure could never cover all of the request, only what it leaves unheld."""
    key = exposed_key()
    (exposure,) = [key.account.exposure]
    assert exposure is not None
    for share, code in ((0.95, "rate_limit_exceeded"), (0.5, "insufficient_quota")):
        async with built(ExchangeSettings(adaptive=True), key=key, ledger=Crowded(balance_nanos=CREDIT)) as house:
            body = chat(stream=True, max_tokens=16000)
            whole = 16000 * 17_000
            key.account.change([replace(exposure, cap=int(whole * share))], frozen=False)
            assert (await house.ask(body=body)).error["code"] == code
