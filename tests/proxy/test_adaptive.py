"""Adaptive holds on the wire: streams that grow into their hold, and streams that are ended where nothing is left."""

from typing import Any
from uuid import UUID

import orjson
import pytest

from meterproxy.core.key import KeyEntry
from meterproxy.core.limit import Limit, Measure, Scope
from meterproxy.core.window import WindowKind
from meterproxy.errors import NoExposure
from meterproxy.proxy.adaptive import ANSWERS, FIRST_TOKENS, LEAST_TOKENS, MARGIN_TOKENS, REMEMBERED, Usual
from meterproxy.proxy.settings import ExchangeSettings
from tests.proxy.fakes import FakeLedger, key_entry
from tests.proxy.house import built, chat

ADAPTIVE = ExchangeSettings(adaptive=True)
CREDIT = 40_000_000
"""Pays for some two thousand tokens of output from gpt-4o in its dearest tier, which is what is held."""
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def exposed_key() -> KeyEntry:
    """A key of an account that may leave something unheld."""
    key = key_entry()
    exposure = Limit(UUID(int=50), Scope.ACCOUNT, key.account_id, Measure.EXPOSURE, WindowKind.NONE, 10**12)
    key.account.change([exposure], frozen=False)
    return key


def stream(simulate: str = "", **members: Any) -> dict[str, Any]:
    return chat(simulate, stream=True, **members)


def chunks(body: bytes) -> list[dict[str, Any]]:
    """The events of a stream that has ended as it should."""
    events = body.decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    return [orjson.loads(event.removeprefix("data: ")) for event in events[:-2]]


def said(told: list[dict[str, Any]]) -> str:
    return "".join(choice["delta"].get("content") or "" for chunk in told for choice in chunk["choices"])


async def test_a_stream_holds_what_answers_usually_need_and_grows() -> None:
    """First a step, then more, in the end what it turned out to be; nothing differs for its client."""
    async with built(ADAPTIVE, key=exposed_key()) as house:
        answer = await house.ask(body=stream("tokens=3000", max_tokens=16000))
        assert chunks(answer.body)[-1]["choices"][0]["finish_reason"] == "stop"
        await house.ended()
        (placed,), (row,) = house.ledger.placed, house.ledger.rows
        whole = placed.hold_nanos + placed.exposed_nanos
        assert placed.hold_nanos < whole // 8
        assert (row.outcome, row.usage.output) == ("completed", 3000)
        assert placed.hold_nanos < row.hold_nanos <= whole
        assert row.amount_nanos <= row.hold_nanos


@pytest.mark.parametrize("tells_usage", [False, True])
async def test_a_stream_of_which_no_more_can_be_held_ends_as_at_a_maximum(tells_usage: bool) -> None:
    """Whole events, a finish reason, usage where it was asked for; charged is what was passed on, within the credit."""
    options = {"stream_options": {"include_usage": True}} if tells_usage else {}
    async with built(ADAPTIVE, key=exposed_key(), ledger=FakeLedger(balance_nanos=CREDIT)) as house:
        answer = await house.ask(body=stream("tokens=9000", max_tokens=16000, **options))
        told = chunks(answer.body)
        await house.ended()
        (row,) = house.ledger.rows
        assert house.ledger.balance_nanos >= 0
        last = told[-2] if tells_usage else told[-1]
        assert last["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}]
        assert {chunk["id"] for chunk in told} == {told[0]["id"]}
        assert (row.outcome, row.source) == ("stopped_by_limit", "counted")
        assert row.amount_nanos <= row.hold_nanos <= CREDIT
        assert row.usage.output > 1000, "the credit was worth counting for"
        if tells_usage:
            assert told[-1]["choices"] == []
            assert told[-1]["usage"]["completion_tokens"] == row.usage.output
        assert len(said(told).split()) > 500


async def test_without_the_tokenizer_bytes_stand_for_tokens() -> None:
    """The stream ends earlier, never later."""
    async with built(ADAPTIVE, key=exposed_key(), ledger=FakeLedger(balance_nanos=CREDIT)) as house:
        house.counter.away = True
        answer = await house.ask(body=stream("tokens=9000", max_tokens=16000))
        assert len(said(chunks(answer.body)).encode()) <= 2400
        await house.ended()
        assert house.ledger.balance_nanos >= 0


async def test_completions_end_in_their_own_shape() -> None:
    """With a text that is empty."""
    ledger = FakeLedger(balance_nanos=4_000_000)
    async with built(ADAPTIVE, key=exposed_key(), ledger=ledger) as house:
        body = {"model": "gpt-3.5-turbo-instruct", "prompt": "Go. [[simulate: tokens=4000]]", "max_tokens": 3900}
        answer = await house.ask(COMPLETIONS, {**body, "stream": True})
        told = chunks(answer.body)
        assert told[-1]["object"] == "text_completion"
        assert told[-1]["choices"] == [{"index": 0, "text": "", "logprobs": None, "finish_reason": "length"}]
        await house.ended()
        assert house.ledger.rows[0].outcome == "stopped_by_limit"
        assert house.ledger.balance_nanos >= 0


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (chat(max_tokens=16000), CHAT),
        (stream(max_tokens=16000, n=2), CHAT),
        ({"model": "o3-mini", "messages": chat()["messages"], "stream": True, "max_completion_tokens": 16000}, CHAT),
        (stream(max_tokens=500), CHAT),
        ({"model": "gpt-4o", "input": "Hi", "stream": True, "max_output_tokens": 16000}, "/v1/responses"),
    ],
    ids=["plain", "two choices", "thinks unseen", "short", "response"],
)
async def test_what_cannot_be_cut_off_or_hides_something_is_held_whole(body: dict[str, Any], path: str) -> None:
    """Nothing of it is exposed."""
    async with built(ADAPTIVE, key=exposed_key()) as house:
        assert (await house.ask(path, body)).status == 200
        await house.ended()
        assert [request.exposed_nanos for request in house.ledger.placed] == [0]


class Crowded(FakeLedger):
    """A ledger whose exposure is taken."""

    def try_place(self, request: Any) -> Any:
        if request.exposed_nanos:
            raise NoExposure
        return super().try_place(request)


async def test_without_exposure_everything_is_held() -> None:
    """As by the other policy; and a key whose account has none is not even asked."""
    for settings, ledger in ((ADAPTIVE, Crowded()), (ExchangeSettings(), FakeLedger())):
        async with built(settings, key=exposed_key(), ledger=ledger) as house:
            assert (await house.ask(body=stream("tokens=2000", max_tokens=16000))).status == 200
            await house.ended()
            assert house.ledger.rows[0].hold_nanos > 16000 * 10_000


async def test_a_lack_of_exposure_is_told_as_something_that_passes() -> None:
    """The credit is not gone because others leave something unheld."""
    async with built(ADAPTIVE, key=exposed_key(), ledger=Crowded(balance_nanos=CREDIT)) as house:
        answer = await house.ask(body=stream(max_tokens=16000))
        assert (answer.status, answer.error["code"]) == (429, "rate_limit_exceeded")
        assert (await house.ask(body=chat(max_tokens=16000))).error["code"] == "insufficient_quota"


async def test_a_compressed_stream_is_held_whole_before_it_begins() -> None:
    """It cannot be cut off; where not all of it can be held it is an error, and the client pays nothing."""
    for credit, status, rows in ((10**12, 200, 1), (CREDIT, 502, 0)):
        async with built(ADAPTIVE, key=exposed_key(), ledger=FakeLedger(balance_nanos=credit)) as house:
            answer = await house.ask(body=stream("tokens=1000,compress=gzip", max_tokens=16000))
            await house.ended()
            assert answer.status == status
            assert [row.how for row in house.ledger.rows].count("captured") == rows
            if rows:
                assert answer.headers["content-encoding"] == "gzip"
                assert house.ledger.rows[0].hold_nanos > CREDIT


async def test_what_is_remembered_is_what_most_answers_needed() -> None:
    """Nine of ten, and a quarter more; bounded in what is kept."""
    usual, key = Usual(), UUID(int=1)
    assert usual.tokens(key, "m") == FIRST_TOKENS
    for length in [100] * 29 + [5000]:
        usual.note(key, "m", length)
    assert usual.tokens(key, "m") == LEAST_TOKENS + MARGIN_TOKENS
    for length in [2000] * ANSWERS:
        usual.note(key, "m", length)
    assert usual.tokens(key, "m") == 2500 + MARGIN_TOKENS
    for number in range(REMEMBERED):
        usual.note(UUID(int=number), "other", 1)
    assert usual.tokens(key, "m") == FIRST_TOKENS


async def test_the_next_hold_is_as_large_as_answers_were() -> None:
    """A key whose answers are short holds little."""
    async with built(ADAPTIVE, key=exposed_key()) as served:
        for _ in range(2):
            await served.ask(body=stream("tokens=20", max_tokens=16000))
            await served.ended()
        first, second = served.ledger.placed
        assert second.hold_nanos < first.hold_nanos
