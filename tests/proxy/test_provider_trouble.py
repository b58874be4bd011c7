"""Trouble with a provider, end to end against scripted ones: what its client hears, what is tried again, what rests."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import orjson
import pytest

from meterproxy.proxy.upstream import Upstream
from tests.proxy.house import House, built, chat
from tests.proxy.raw import Answer
from tests.proxy.scripted import Peer, Provider, Script, provider

WORDS = b"org-Secret sk-upstream"
"""What no tenant may read: who we are to our provider."""
GOOD = (
    b'{"id":"c","object":"chat.completion","model":"gpt-4o","choices":[{"index":0,"message":{"role":"assistant",'
    b'"content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":1,"total_tokens":6}}'
)
HEADERS = b"x-request-id: req-1\r\nOpenAI-Organization: org-Secret\r\nx-ratelimit-limit-requests: 10\r\n"


def response(status: int, body: bytes, headers: bytes = HEADERS) -> bytes:
    framing = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    return b"HTTP/1.1 %d Whatever\r\n" % status + headers + framing + body


def refusal(code: str | None, type_: str = "some_error") -> bytes:
    error = {"message": WORDS.decode(), "type": type_, "param": None, "code": code}
    return orjson.dumps({"error": error})


@asynccontextmanager
async def facing(*scripts: Script) -> AsyncIterator[tuple[House, Provider]]:
    async with provider(*scripts) as served, built(provider_url=f"http://127.0.0.1:{served.port}/v1") as house:
        yield house, served
        await house.exchanges.close()


def saying(*answers: bytes) -> Script:
    """Answer so many requests on one connection."""

    async def script(peer: Peer) -> None:
        for answer in answers:
            await peer.answer(answer)
        await peer.closed()

    return script


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("status", "code", "type_", "everybody"),
    [
        (401, "invalid_api_key", "invalid_request_error", True),
        (401, None, "invalid_request_error", True),
        (402, None, "payment_required", True),
        (403, "unsupported_country_region_territory", "request_forbidden", False),
        (429, "insufficient_quota", "insufficient_quota", True),
        (429, None, "insufficient_quota", True),
        (429, "billing_hard_limit_reached", "requests", True),
        (400, "billing_hard_limit_reached", "invalid_request_error", True),
        (429, "billing_not_active", "billing_not_active", True),
    ],
)
async def test_what_is_wrong_with_our_account_stays_with_us(
    status: int, code: str | None, type_: str, everybody: bool, stream: bool
) -> None:
    """A tenant hears 503 without a word or header of the provider; nothing is charged; then nobody asks for a while."""
    refused = response(status, refusal(code, type_), HEADERS + b"WWW-Authenticate: Bearer realm=org-Secret\r\n")
    async with facing(saying(refused, response(200, GOOD))) as (house, served):
        for _ in range(2):
            answer = await house.ask(body=chat(stream=stream))
            assert (answer.status, answer.error["code"]) == (503, "upstream_account")
            assert answer.error["type"] == "server_error"
            assert b"ecret" not in answer.body
            assert not {"www-authenticate", "openai-organization"} & answer.headers.keys()
        others = await house.ask(body=chat(model="gpt-4o-mini"))
        assert others.status == (503 if everybody else 200)
        house.clock.advance(31)
        if everybody:
            assert (await house.ask(body=chat())).status == 200
        await house.ended()
        assert not house.ledger.open
        refusals = [row for row in house.ledger.rows if row.how == "released"]
        assert [(row.amount_nanos, row.status, row.outcome) for row in refusals] == [(0, 503, "provider_error")]
        assert served.connections == 1


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/v1/moderations", "You have insufficient permissions for this operation. Missing scopes: api.moderations."),
        ("/v1/conversations", "Access denied due to invalid subscription key or wrong API endpoint."),
    ],
)
async def test_a_credential_that_may_not_do_everything_serves_the_rest(path: str, words: str) -> None:
    """Whoever asks for what our credential may not do, or for nothing that it is needed for, stops nobody else."""
    refused = response(401, orjson.dumps({"error": {"message": words, "type": "invalid_request_error"}}))
    async with facing(saying(refused, response(200, GOOD))) as (house, _):
        for _ in range(2):
            answer = await house.ask(path, {"input": "Hi"} if "moderations" in path else {})
            assert (answer.status, answer.error["code"]) == (503, "upstream_account")
        assert (await house.ask(body=chat())).status == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, refusal("context_length_exceeded", "invalid_request_error")),
        (404, refusal("model_not_found", "invalid_request_error")),
        (409, refusal(None)),
        (413, b"<html>too large</html>"),
        (418, b""),
        (422, refusal(None, "invalid_request_error")),
        (429, refusal("rate_limit_exceeded", "requests")),
        (429, b'{"error":"slow down"}'),
        (429, b'{"error":{"code":["insufficient_quota"]}}'),
        (500, refusal(None, "server_error")),
        (502, b"bad gateway"),
        (503, b"\xff not JSON"),
    ],
)
async def test_what_is_wrong_with_the_request_passes(status: int, body: bytes, stream: bool) -> None:
    """Status, body and headers are the provider's, byte for byte; nothing is charged and nobody rests."""
    headers = HEADERS + b"Retry-After: 7\r\nx-should-retry: true\r\n"
    async with facing(saying(response(status, body, headers), response(200, GOOD))) as (house, _):
        answer = await house.ask(body=chat(stream=stream))
        assert (answer.status, answer.body) == (status, body)
        passed = {name: answer.headers.get(name) for name in ("x-request-id", "retry-after", "x-should-retry")}
        assert passed == {"x-request-id": "req-1", "retry-after": "7", "x-should-retry": "true"}
        assert not [name for name in answer.headers if name.startswith(("x-ratelimit", "openai-"))]
        assert (await house.ask(body=chat())).status == 200
        assert [row.how for row in house.ledger.rows] == ["released", "captured"]


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(status: int) -> None:
    """A provider that sends us elsewhere is unreachable; where to is nobody's business."""
    elsewhere = response(status, b"", b"Location: http://evil.example/org-Secret\r\n")
    async with facing(saying(elsewhere)) as (house, _):
        answer = await house.ask(body=chat())
        assert (answer.status, answer.error["code"]) == (502, "upstream_unreachable")
        assert "location" not in answer.headers
        assert [row.how for row in house.ledger.rows] == ["released"]


async def _ask_twice(house: House) -> list[Answer]:
    return [await house.ask(body=chat()), await house.ask(body=chat())]


def _codes(answers: list[Answer]) -> list[object]:
    return [200 if answer.status == 200 else answer.error["code"] for answer in answers]


async def test_a_stale_connection_costs_nobody_anything() -> None:
    """A reused connection that dies before a byte of an answer is replaced once: one hold, one charge."""

    async def stale(peer: Peer) -> None:
        await peer.answer(response(200, GOOD))
        await peer.request()
        peer.reset()

    async with facing(stale, saying(response(200, GOOD))) as (house, served):
        assert _codes(await _ask_twice(house)) == [200, 200]
        assert [row.how for row in house.ledger.rows] == ["captured", "captured"]
        assert served.connections == 2


async def test_a_new_connection_that_dies_is_not_tried_again() -> None:
    """Whoever took the request on a new connection and said nothing may be working on it."""

    async def dying(peer: Peer) -> None:
        await peer.request()
        peer.reset()

    async with facing(dying) as (house, served):
        answer = await house.ask(body=chat())
        assert (answer.status, answer.error["code"]) == (502, "upstream_unreachable")
        assert served.connections == 1
        [row] = house.ledger.rows
        assert (row.how, row.amount_nanos) == ("released", 0)


@pytest.mark.parametrize("said", [b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", b"\0"])
async def test_an_answer_that_began_is_not_asked_for_again(said: bytes) -> None:
    """One byte of an answer on a reused connection, and the request is not sent another time."""

    async def partial(peer: Peer) -> None:
        await peer.answer(response(200, GOOD))
        await peer.answer(said)
        peer.close()

    async with facing(partial) as (house, served):
        assert _codes(await _ask_twice(house)) == [200, "upstream_unreachable"]
        assert [row.how for row in house.ledger.rows] == ["captured", "released"]
        assert served.connections == 1


async def test_the_repetition_is_not_repeated() -> None:
    """A stale connection and then a dead one: two tries, then the client hears of it."""

    async def stale(peer: Peer) -> None:
        await peer.answer(response(200, GOOD))
        await peer.request()
        peer.reset()

    async def dying(peer: Peer) -> None:
        await peer.request()
        peer.reset()

    async with facing(stale, dying) as (house, served):
        assert _codes(await _ask_twice(house)) == [200, "upstream_unreachable"]
        assert served.connections == 2


async def test_too_many_at_once_are_told_so() -> None:
    """Where all connections to a provider work and nobody may wait, the next is told to come back: nothing was sent."""
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slow(peer: Peer) -> None:
        await peer.request()
        asked.set()
        await go_on.wait()
        await peer.send(response(200, GOOD))
        await peer.closed()

    async with facing(slow) as (house, served):
        narrow = replace(house.provider.upstream.origin, max_connections=1, max_waiting=0)
        house.provider.upstream = Upstream(narrow, environ={})
        first = asyncio.create_task(house.ask(body=chat()))
        await asked.wait()
        answer = await house.ask(body=chat())
        assert (answer.status, answer.error["code"]) == (503, "overloaded")
        assert answer.headers["retry-after"] == "1"
        go_on.set()
        assert (await first).status == 200
        assert sorted((row.how, row.source) for row in house.ledger.rows) == [
            ("captured", "provider"),
            ("released", "provider"),
        ]
        assert not house.ledger.open
        assert served.connections == 1
