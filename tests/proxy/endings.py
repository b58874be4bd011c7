"""Every way an exchange can end, as a table: what the client does, what the provider does, what is heard and booked.

The table knows nothing of the books: `play` acts on a `House`, whoever keeps its ledger. `rows` of that ledger must
then hold exactly one row, as the case says, and no hold may be open.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from meterproxy.core.usage import Usage
from meterproxy.errors import ApiError, Case
from meterproxy.proxy import meter, plain
from meterproxy.proxy.settings import ExchangeSettings
from tests.proxy.house import PROMPT, House, request, until
from tests.proxy.raw import Answer, Raw

INPUT = 13
"""Tokens of the prompt, as OpenAI counts a chat of one message."""
OUTPUT = 20
WHOLE = Usage(input=INPUT, output=OUTPUT, requests=1)
NOTHING = Usage()
SENT = Usage(input=27, requests=1)
"""What a provider may charge for a request whose answer never came: a quarter of its bytes."""

SENT_STREAM = Usage(input=30, requests=1)


@dataclass(frozen=True)
class Heard:
    """What the client got; `whole` is False where the connection ended before the answer did."""

    status: int = 0
    body: bytes = b""
    whole: bool = True


Play = Callable[[House, "Ending"], Awaitable[Heard]]


async def ask(house: House, case: "Ending") -> Heard:
    async with house.client() as client:
        client.send(case.request)
        try:
            answer: Answer = await client.answer()
        except (asyncio.IncompleteReadError, ConnectionError):
            return Heard(whole=False)
        return Heard(answer.status, answer.body)


@dataclass(frozen=True)
class Ending:
    """One row of the table."""

    name: str
    simulate: str
    how: str
    outcome: str
    status: int
    source: str
    usage: Usage
    play: Play = ask
    path: str = "/v1/chat/completions"
    body: dict[str, Any] = field(default_factory=dict)
    code: str | None = None
    """The code of the error that the client hears, in its body or as an event."""
    heard: bytes = b""
    """What must be in the body that the client got."""
    never: bytes = b"what no answer holds"
    """What must not be in it."""
    settings: ExchangeSettings | None = None
    first_byte_seconds: float = 20.0
    between_bytes_seconds: float = 20.0
    provider_url: str | None = None
    calls: int = 1
    overruns: bool = False
    """Whether more is charged than was held."""

    @property
    def request(self) -> bytes:
        return request(self.path, {**BODIES[self.path], **self.body}, X_Simulate=self.simulate)


BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": 50,
    },
    "/v1/completions": {"model": "gpt-3.5-turbo-instruct", "prompt": PROMPT, "max_tokens": 50},
    "/v1/embeddings": {"model": "text-embedding-3-small", "input": PROMPT},
}
TOKENS = f"tokens={OUTPUT}"
STREAM: dict[str, Any] = {"stream": True}
LARGE = ExchangeSettings(buffered_bytes=100)
THREE: dict[str, Any] = {"input": [PROMPT] * 3}
MANY: dict[str, Any] = {"input": ["a"] * 400}
_BROKEN = contextlib.ExitStack()
DONE = b"data: [DONE]\n\n"


async def _begin(client: Raw, case: Ending) -> bytes:
    """Send the request of a stream and read until its first content."""
    client.send(case.request)
    await client.head()
    heard = b""
    while heard.count(b"data: ") < 3:
        heard += await client.chunk()
    return heard


async def leave_stream(house: House, case: Ending) -> Heard:
    async with house.client() as client:
        heard = await _begin(client, case)
        client.writer.transport.abort()
    await house.ended()
    return Heard(200, heard, whole=False)


async def leave_plain(house: House, case: Ending) -> Heard:
    async with house.client() as client:
        client.send(case.request)
        await until(lambda: house.ledger.open)
        client.writer.transport.abort()
    await house.ended()
    return Heard(200, whole=False)


def _during(act: Callable[[House], object]) -> Play:
    """Do something to the house while a stream runs, then read it to its end."""

    async def play(house: House, case: Ending) -> Heard:
        async with house.client() as client:
            heard = await _begin(client, case)
            act(house)
            while chunk := await client.chunk():
                heard += chunk
        return Heard(200, heard)

    return play


def _during_large(act: Callable[[House], object]) -> Play:
    """Do something to the house while an answer that is too large to be read whole goes through."""

    async def play(house: House, case: Ending) -> Heard:
        async with house.client() as client:
            client.send(case.request)
            await client.head()
            heard = await client.reader.read(1)
            act(house)
            return Heard(200, heard + await _until_cut(client), whole=False)

    return play


async def _until_cut(client: Raw) -> bytes:
    try:
        return await client.reader.read()
    except ConnectionError:
        return b""


async def without_reading(house: House, case: Ending) -> Heard:
    """The client stops reading in the middle of a large answer, until that is over its time."""
    async with house.client() as client:
        client.send(case.request)
        await client.head()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        [exchange] = house.exchanges.open
        await until(lambda: exchange._client.congested)
        _run_out_of_time(house)
        await house.ended()
    return Heard(200, whole=False)


def _while_waiting(act: Callable[[House], object]) -> Play:
    """Do something to the house while a plain call waits for the provider."""

    async def play(house: House, case: Ending) -> Heard:
        asking = asyncio.create_task(ask(house, case))
        while not house.ledger.placed or not await house.calls():
            await asyncio.sleep(0.001)
        act(house)
        return await asking

    return play


def _shut_down(house: House) -> None:
    house.exchanges.cut_all_short(ApiError(Case.UNAVAILABLE, "The service is shutting down."))


def _run_out_of_time(house: House) -> None:
    house.clock.advance(7200)
    house.exchanges._look_after()


def _break_meter(_house: House) -> None:
    """From now on whatever reads an answer fails, as a bug would."""
    for name in ("plain_reader", "StreamMeter.feed", "StreamMeter.reading"):
        owner, _, method = name.rpartition(".")
        _BROKEN.enter_context(mock.patch.object(getattr(meter, owner) if owner else plain, method, side_effect=_bug))


def _bug(*_arguments: object) -> None:
    raise ZeroDivisionError("a bug")


def with_broken_meter(play: Play, *, first: bool = False) -> Play:
    """Play with a meter that works again when it is over; `first`: it is broken from the start."""

    async def played(house: House, case: Ending) -> Heard:
        with _BROKEN:
            if first:
                _break_meter(house)
            heard = await play(house, case)
            await house.ended()
            return heard

    return played


def _break_meter_and_shut_down(house: House) -> None:
    _break_meter(house)
    _shut_down(house)


def _break_journal(house: House) -> None:
    house.ledger.journal_works = False


async def with_broken_journal(house: House, case: Ending) -> Heard:
    _break_journal(house)
    return await ask(house, case)


async def without_trust(house: House, case: Ending) -> Heard:
    place = house.ledger.try_place

    def place_then_lose_trust(asked: Any) -> Any:
        hold = place(asked)
        house.ledger.trusted = False
        return hold

    house.ledger.try_place = place_then_lose_trust  # type: ignore[method-assign]
    return await ask(house, case)


async def without_tokenizer(house: House, case: Ending) -> Heard:
    house.counter.away = True
    return await ask(house, case)


def _part(tokens: int) -> Usage:
    return Usage(input=INPUT, output=tokens, requests=1)


ENDINGS = [
    # the answer comes
    Ending("plain", TOKENS, "captured", "completed", 200, "provider", WHOLE),
    Ending("stream", TOKENS, "captured", "completed", 200, "provider", WHOLE, body=STREAM, heard=DONE, never=b'"usage"'),
    Ending(
        "stream, usage asked by the client", TOKENS, "captured", "completed", 200, "provider", WHOLE,
        body={"stream": True, "stream_options": {"include_usage": True}}, heard=b'"usage":{',
    ),
    Ending("completion", TOKENS, "captured", "completed", 200, "provider", Usage(input=6, output=20, requests=1), path="/v1/completions"),
    Ending("embedding", "", "captured", "completed", 200, "provider", Usage(input=6, requests=1), path="/v1/embeddings"),
    Ending("cached and reasoning tokens", f"{TOKENS},cached=10,reasoning=7", "captured", "completed", 200, "provider", Usage(input=3, cache_read=10, output=20, reasoning=7, requests=1)),
    Ending("JSON to a stream", f"{TOKENS},json_for_stream", "captured", "completed", 200, "provider", WHOLE, body=STREAM, heard=b'"usage"'),
    Ending("no [DONE]", f"{TOKENS},no_done", "captured", "completed", 200, "provider", WHOLE, body=STREAM),
    Ending("garbage in a stream", f"{TOKENS},garbage", "captured", "completed", 200, "provider", WHOLE, body=STREAM, heard=DONE),
    Ending("huge event", f"{TOKENS},huge_line=2000000", "captured", "completed", 200, "provider", WHOLE, body=STREAM, heard=DONE),
    Ending("other line ends", f"{TOKENS},newline=crlf", "captured", "completed", 200, "provider", WHOLE, body=STREAM, heard=b"data: [DONE]\r\n\r\n", never=b'"usage"'),
    Ending("one byte at a time", f"{TOKENS},piece=7", "captured", "completed", 200, "provider", WHOLE, body=STREAM, heard=DONE, never=b'"usage"'),
    Ending("usage beside choices", f"{TOKENS},usage_beside_choices", "captured", "completed", 200, "provider", WHOLE, body=STREAM, heard=b'"usage"'),
    Ending("wrong content type", f"{TOKENS},content_type=text/plain", "captured", "completed", 200, "provider", WHOLE),
    Ending("compressed all the same", f"{TOKENS},compress=gzip", "captured", "completed", 200, "provider", WHOLE),
    Ending("compressed stream", f"{TOKENS},compress=deflate", "captured", "completed", 200, "provider", WHOLE, body=STREAM),
    # usage does not come, or cannot be
    Ending("no usage", f"{TOKENS},no_usage", "captured", "completed", 200, "counted", WHOLE),
    Ending("no usage in a stream", f"{TOKENS},no_usage", "captured", "completed", 200, "counted", WHOLE, body=STREAM, heard=DONE),
    Ending("usage is null", f"{TOKENS},usage_null", "captured", "completed", 200, "counted", WHOLE, body=STREAM),
    Ending("negative usage", f"{TOKENS},usage_negative", "captured", "completed", 200, "counted", WHOLE),
    Ending("usage of 2^64", f"{TOKENS},usage_huge", "captured", "completed", 200, "counted", WHOLE),
    Ending("fractions in usage", f"{TOKENS},usage_float", "captured", "completed", 200, "counted", WHOLE),
    Ending("no usage, no tokenizer", f"{TOKENS},no_usage", "captured", "completed", 200, "estimated", Usage(), play=without_tokenizer),
    Ending("stream options rejected", f"{TOKENS},reject_stream_options,no_usage", "captured", "completed", 200, "counted", WHOLE, body=STREAM, heard=DONE, calls=2),
    # the provider refuses or does not answer
    Ending("request refused", "status=400", "released", "provider_error", 400, "provider", NOTHING),
    Ending("rate limit of the provider", "status=429,code=rate_limit_exceeded", "released", "provider_error", 429, "provider", NOTHING, code="rate_limit_exceeded"),
    Ending("provider fails", "status=500", "released", "provider_error", 500, "provider", NOTHING),
    Ending("our key refused", "status=401", "released", "provider_error", 503, "provider", NOTHING, code="upstream_account", never=b"api_key"),
    Ending("our account forbidden", "status=403", "released", "provider_error", 503, "provider", NOTHING, code="upstream_account"),
    Ending("our quota spent", "status=429,code=insufficient_quota", "released", "provider_error", 503, "provider", NOTHING, code="upstream_account", never=b"quota"),
    Ending("nobody listens", "", "released", "unreachable", 502, "provider", NOTHING, code="upstream_unreachable", provider_url="http://127.0.0.1:1/v1", calls=0),
    Ending("connection dropped", "drop", "released", "unreachable", 502, "estimated", SENT, code="upstream_unreachable"),
    Ending("no answer in time", "hang", "released", "timed_out", 504, "estimated", SENT, code="upstream_timeout", first_byte_seconds=0.05),
    Ending("plain answer cut", f"{TOKENS},truncate", "released", "unreachable", 502, "estimated", SENT, code="upstream_unreachable"),
    # a stream breaks
    Ending("stream cut", f"{TOKENS},cut=6", "captured", "stream_broken", 200, "counted", _part(5), body=STREAM, code="upstream_unreachable", never=b"[DONE]"),
    Ending("stream reset", f"{TOKENS},cut_rst=6,slow=0.002", "captured", "stream_broken", 200, "counted", _part(5), body=STREAM, code="upstream_unreachable"),
    Ending("stream silent", f"{TOKENS},slow=5", "captured", "stream_broken", 200, "counted", _part(0), body=STREAM, code="upstream_timeout", between_bytes_seconds=0.05),
    Ending("error event", f"{TOKENS},error_event", "captured", "provider_error", 200, "counted", _part(11), body=STREAM, never=b"[DONE]"),
    # the client leaves
    Ending("client leaves a stream", f"{TOKENS},slow=0.002", "captured", "client_left", 200, "provider", WHOLE, play=leave_stream, body=STREAM),
    Ending("client leaves, cancelled", f"{TOKENS},slow=0.02", "captured", "client_left", 200, "counted", Usage(), play=leave_stream, body=STREAM, settings=ExchangeSettings(on_disconnect="cancel")),
    Ending("client leaves a plain call", f"{TOKENS},delay=0.1", "captured", "client_left", 200, "provider", WHOLE, play=leave_plain),
    # we end it
    Ending("shutdown in a stream", f"{TOKENS},slow=0.1", "captured", "stream_broken", 200, "counted", Usage(), play=_during(_shut_down), body=STREAM, code="service_unavailable", never=b"[DONE]"),
    Ending("shutdown while waiting", "hang", "released", "unreachable", 503, "estimated", SENT, play=_while_waiting(_shut_down), code="service_unavailable"),
    Ending("out of time in a stream", f"{TOKENS},slow=0.1", "captured", "stream_broken", 200, "counted", Usage(), play=_during(_run_out_of_time), body=STREAM, code="upstream_timeout"),
    Ending("out of time while waiting", "hang", "released", "timed_out", 504, "estimated", SENT, play=_while_waiting(_run_out_of_time), code="upstream_timeout"),
    # a large plain answer does not come to its end
    Ending("shutdown in a large answer", "piece=20000,slow=0.05", "captured", "stream_broken", 200, "counted", Usage(input=18, requests=1), play=_during_large(_shut_down), path="/v1/embeddings", body=THREE, settings=LARGE),
    Ending("out of time in a large answer", f"{TOKENS},piece=150,slow=0.05", "captured", "stream_broken", 200, "estimated", Usage(), play=_during_large(_run_out_of_time), settings=LARGE),
    Ending("large answer cut", f"{TOKENS},cut=400", "captured", "stream_broken", 200, "estimated", Usage(), settings=LARGE),
    Ending("large answer nobody reads", "", "captured", "stream_broken", 200, "counted", Usage(input=400, requests=1), play=without_reading, path="/v1/embeddings", body=MANY, settings=LARGE),
    # the provider says more than it was asked for
    Ending("maximum ignored", "tokens=2000,ignore_maximum,no_usage", "captured", "completed", 200, "counted", Usage(input=INPUT, output=2000, requests=1), body={"max_tokens": 1}, overruns=True),
    Ending("maximum ignored in a stream", "tokens=2000,ignore_maximum,no_usage", "captured", "completed", 200, "counted", Usage(input=INPUT, output=2000, requests=1), body={"max_tokens": 1, **STREAM}, heard=DONE, overruns=True),
    # our own meter has a bug
    Ending("meter fails at a plain answer", TOKENS, "released", "unreachable", 500, "estimated", SENT, play=with_broken_meter(ask, first=True), code="internal_error"),
    Ending("meter fails at a stream's first event", TOKENS, "captured", "stream_broken", 200, "estimated", SENT_STREAM, play=with_broken_meter(ask, first=True), body=STREAM),
    Ending("meter fails at a large answer", f"{TOKENS}", "captured", "stream_broken", 200, "estimated", SENT, play=with_broken_meter(ask, first=True), settings=LARGE),
    Ending("meter fails at a shutdown in a stream", f"{TOKENS},slow=0.1", "captured", "stream_broken", 200, "estimated", SENT_STREAM, play=with_broken_meter(_during_large(_break_meter_and_shut_down)), body=STREAM),
    Ending("no trust at the first byte", TOKENS, "released", "unreachable", 503, "provider", NOTHING, play=without_trust, code="service_unavailable", calls=0),
    Ending("journal fails at a plain ending", TOKENS, "captured", "completed", 500, "provider", WHOLE, play=with_broken_journal, code="internal_error"),
    Ending("journal fails at JSON to a stream", f"{TOKENS},json_for_stream", "captured", "completed", 500, "provider", WHOLE, play=with_broken_journal, body=STREAM, code="internal_error"),
    Ending("journal fails at a large answer", TOKENS, "captured", "completed", 200, "provider", WHOLE, play=with_broken_journal, settings=LARGE),
    Ending("journal fails in a stream", f"{TOKENS},slow=0.01", "captured", "completed", 200, "provider", WHOLE, play=_during(_break_journal), body=STREAM, code="internal_error", never=b"[DONE]"),
]  # fmt: skip
