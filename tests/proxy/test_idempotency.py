"""Idempotency-Key at the proxy: the same question is asked once, and whoever repeats it gets the first answer."""

import asyncio
import re
from collections.abc import Sequence
from uuid import UUID

import pytest

from meterproxy.core.idempotency import ClaimEnd, EndedClaim
from meterproxy.errors import ApiError, Case
from meterproxy.proxy import idempotency, shares
from meterproxy.proxy.settings import ExchangeSettings
from tests.proxy.house import House, built, chat, request, until

KEY = "order-17"
OVER = ApiError(Case.UNAVAILABLE, "The service is shutting down.")


def keyed(body: object = None, key: str = KEY, **headers: str) -> bytes:
    return request("/v1/chat/completions", body or chat(), Idempotency_Key=key, **headers)


async def asked(house: House, body: object = None, key: str = KEY):
    async with house.client() as client:
        client.send(keyed(body, key))
        return await client.answer()


async def told(house: House, count: int) -> list[ClaimEnd]:
    """How claims ended, once so many have."""
    await until(lambda: len(house.idempotency.ends) >= count)
    return [claim.end for claim in house.idempotency.ends]


@pytest.mark.parametrize("stream", [False, True])
async def test_the_same_request_again_gets_the_same_bytes(stream: bool) -> None:
    """One call of the provider, one row; the second answer is marked, and differs in nothing else that lasts."""
    async with built() as house:
        first = await asked(house, chat(stream=stream))
        second = await asked(house, chat(stream=stream))
        assert (second.status, second.body) == (first.status, first.body)
        assert second.headers.pop("x-meterproxy-replayed") == "true"
        first.headers.pop("x-meterproxy-balance", None)
        assert second.headers == first.headers
        assert len(house.ledger.rows) == len(await house.calls()) == 1
        assert house.observer.replays == 1
        assert await told(house, 1) == [ClaimEnd.ANSWERED]


async def test_without_the_header_nobody_is_asked() -> None:
    """Only who uses it pays for it."""
    async with built() as house:
        for _ in range(2):
            assert (await house.ask(body=chat())).status == 200
        assert house.idempotency.asked == 0
        assert len(house.ledger.rows) == 2


async def test_a_request_waits_for_the_one_that_is_running() -> None:
    """Two at the same time: the provider is asked once, both get its answer."""
    async with built() as house:
        answers = await asyncio.gather(*(asked(house, chat("delay=0.2")) for _ in range(3)))
        assert {answer.body for answer in answers} == {answers[0].body}
        assert len(await house.calls()) == len(house.ledger.rows) == 1
        assert sorted("x-meterproxy-replayed" in answer.headers for answer in answers) == [False, True, True]


async def test_who_waits_too_long_is_told_to_come_back() -> None:
    """The wait is bounded; SDKs try again by themselves."""
    async with built(ExchangeSettings(key_wait_seconds=0.0)) as house:
        first = asyncio.create_task(asked(house, chat("hang")))
        await until(lambda: house.idempotency.asked)
        second = await asked(house, chat("hang"))
        assert (second.status, second.error["code"]) == (409, "conflict")
        assert second.headers["retry-after"] == "1"
        assert house.observer.refusals == [("key_running", "/v1/chat/completions")]
        house.exchanges.cut_all_short(OVER)
        assert (await first).status == 503


async def test_only_so_many_wait() -> None:
    """Waiting requests hold memory, so their number is bounded too."""
    async with built(ExchangeSettings(keys_waiting=1)) as house:
        first = asyncio.create_task(asked(house, chat("hang")))
        await until(lambda: house.idempotency.asked)
        second = asyncio.create_task(asked(house, chat("hang")))
        await until(lambda: house.exchanges.house.idempotency._waiting)
        assert (await asked(house, chat("hang"))).status == 409
        house.exchanges.cut_all_short(OVER)
        assert {(await first).status, (await second).status} == {503}


@pytest.mark.parametrize(("path", "body"), [
    ("/v1/chat/completions", chat(temperature=1)),
    ("/v1/completions", {"model": "gpt-3.5-turbo-instruct", "prompt": "Hello."}),
])  # fmt: skip
async def test_another_request_under_the_same_key_is_refused(path: str, body: object) -> None:
    """A key names one request: another body or path is a mistake of the client's, and trying again does not help."""
    async with built() as house:
        await asked(house)
        answer = await house.ask(path, body, Idempotency_Key=KEY)
        assert (answer.status, answer.error["code"], answer.error["param"]) == (409, "conflict", "Idempotency-Key")
        assert answer.headers["x-should-retry"] == "false"
        assert len(house.ledger.rows) == 1


@pytest.mark.parametrize("key", ["x" * 256, "schl\u00fcssel", "a\tb"])
async def test_a_key_must_be_short_printable_ascii(key: str) -> None:
    """Nothing else is stored or compared; 255 characters are enough for anybody."""
    async with built() as house:
        answer = await asked(house, key=key)
        assert (answer.status, answer.error["param"]) == (400, "Idempotency-Key")
        assert house.idempotency.asked == 0
        assert (await asked(house, key="x" * 255)).status == 200


async def test_two_keys_in_one_request_are_refused() -> None:
    """Which of them counts would be a guess."""
    async with built() as house, house.client() as client:
        client.send(keyed().replace(b"Idempotency-Key:", b"Idempotency-Key: other\r\nidempotency-key:"))
        answer = await client.answer()
        assert (answer.status, answer.error["param"]) == (400, "Idempotency-Key")


@pytest.mark.parametrize(("fault", "status"), [
    ("status=400", 400), ("status=429", 429), ("status=500", 500), ("status=401", 503), ("drop", 502),
])  # fmt: skip
async def test_what_cost_nothing_may_be_tried_again(fault: str, status: int) -> None:
    """Errors of the provider or on the way to it leave the key free."""
    async with built() as house:
        assert (await asked(house, chat(fault))).status == status
        assert await told(house, 1) == [ClaimEnd.RELEASED]
        assert (await asked(house, key=KEY)).status in {200, 503}, "the key is free for any request"


async def test_a_refusal_of_our_own_leaves_the_key_free() -> None:
    """Without credit nothing was sent; with credit the same request may go on."""
    async with built() as house:
        balance, house.ledger.balance_nanos = house.ledger.balance_nanos, 0
        assert (await asked(house)).error["code"] == "insufficient_quota"
        assert await told(house, 1) == [ClaimEnd.RELEASED]
        house.ledger.balance_nanos = balance
        assert (await asked(house)).status == 200


async def test_without_postgresql_nothing_is_sent() -> None:
    """It cannot be known whether it was asked before, so it is not asked; what may be claimed is released later."""
    async with built() as house:
        house.idempotency.away = True
        answer = await asked(house)
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert await house.calls() == []
        house.idempotency.away = False
        assert await told(house, 1) == [ClaimEnd.RELEASED]


async def test_without_postgresql_only_so_much_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that tries again and again while it is away fills nobody's memory; with it everything is as before."""
    monkeypatch.setattr(idempotency, "MOST_UNTOLD", 2)
    async with built() as house:
        house.idempotency.away = True
        for number in range(5):
            assert (await asked(house, key=f"order-{number}")).status == 503
        assert house.idempotency.asked == 2
        house.idempotency.away = False
        assert await told(house, 2) == [ClaimEnd.RELEASED] * 2
        await until(lambda: not house.exchanges.house.idempotency._ended)
        assert (await asked(house)).status == 200


async def test_an_end_that_postgresql_refuses_keeps_no_other_from_being_told() -> None:
    """Of several that are told together the others arrive: nobody waits for an answer that was given long ago."""
    async with built() as house:
        house.idempotency.away = True
        for number in range(3):
            assert (await asked(house, key=f"order-{number}")).status == 503
        tell = house.idempotency.end

        async def end(ended: Sequence[EndedClaim]) -> None:
            if any(claim is bad for claim in ended):
                raise ValueError("refused")
            await tell(ended)

        _, (bad, _), _ = house.exchanges.house.idempotency._ended
        house.idempotency.end = end  # type: ignore[method-assign]
        house.idempotency.away = False
        assert len(await told(house, 2)) == 2
        await until(lambda: not house.exchanges.house.idempotency._ended)


async def test_postgresql_hears_of_an_answer_later() -> None:
    """Whoever asks meanwhile waits, and is not charged again."""
    async with built() as house:
        first = asyncio.create_task(asked(house, chat("delay=0.05")))
        await until(lambda: house.idempotency.claims)
        house.idempotency.away = True
        body = (await first).body
        house.idempotency.away = False
        assert (await asked(house, chat("delay=0.05"))).body == body
        assert len(house.ledger.rows) == 1


async def test_an_answer_that_is_too_large_is_not_kept() -> None:
    """It stays charged; whoever asks again is told so, and told not to try."""
    async with built(ExchangeSettings(kept_bytes=100)) as house:
        assert (await asked(house)).status == 200
        assert await told(house, 1) == [ClaimEnd.UNKEPT]
        answer = await asked(house)
        assert (answer.status, answer.error["code"], answer.headers["x-should-retry"]) == (409, "conflict", "false")
        assert len(house.ledger.rows) == 1


async def test_memory_for_copies_is_bounded_and_given_back() -> None:
    """What finds no room is not kept; nothing stays taken."""
    async with built(ExchangeSettings(recordings_bytes=100)) as house:
        assert (await asked(house)).status == 200
        assert await told(house, 1) == [ClaimEnd.UNKEPT]
    async with built() as house:
        await asked(house)
        await told(house, 1)
        await until(lambda: house.exchanges.house.idempotency._room.taken_bytes == 0)


@pytest.mark.parametrize("asked_usage", [False, True])
async def test_a_stream_whose_client_left_is_kept_whole(asked_usage: bool) -> None:
    """The reason why one asks again: the connection broke in the middle, the answer goes on."""
    options = {"stream_options": {"include_usage": True}} if asked_usage else {}
    body = chat("slow=0.01", stream=True, **options)
    async with built() as house:
        whole = await asked(house, body, "another key")
        async with house.client() as client:
            client.send(keyed(body))
            await client.head()
            await client.chunk()
            client.writer.transport.abort()
        again = await asked(house, body)
        assert again.headers["x-meterproxy-replayed"] == "true"
        assert _events(again.body) == _events(whole.body)
        assert again.body.endswith(b"data: [DONE]\n\n")
        assert [row.outcome for row in house.ledger.rows] == ["completed", "client_left"]


async def test_a_plain_call_whose_client_left_is_kept() -> None:
    """The call finishes and is charged, and whoever asks again has what was paid for."""
    async with built() as house:
        async with house.client() as client:
            client.send(keyed(chat("delay=0.1")))
            await until(lambda: house.ledger.placed)
            client.writer.transport.abort()
        assert (await asked(house, chat("delay=0.1"))).headers["x-meterproxy-replayed"] == "true"
        assert len(house.ledger.rows) == 1


async def test_a_stream_that_is_not_read_on_is_not_kept() -> None:
    """With `on_disconnect: cancel` a client that leaves ends its answer; it is charged, and nobody is charged again."""
    async with built(ExchangeSettings(on_disconnect="cancel")) as house:
        async with house.client() as client:
            client.send(keyed(chat("slow=0.05", stream=True)))
            await client.head()
            await client.chunk()
            client.writer.transport.abort()
        assert await told(house, 1) == [ClaimEnd.UNKEPT]
        assert (await asked(house, chat("slow=0.05", stream=True))).status == 409


async def test_a_stream_that_breaks_is_not_kept() -> None:
    """What was delivered is charged, as without a key; a second charge under the same key is not."""
    async with built() as house:
        await asked(house, chat("cut=3", stream=True))
        assert await told(house, 1) == [ClaimEnd.UNKEPT]
        assert [row.how for row in house.ledger.rows] == ["captured"]


async def test_a_shutdown_leaves_its_place_to_the_next() -> None:
    """Our own fault: whoever asks again is answered anew, and the first charge is given back then."""
    async with built() as house:
        async with house.client() as client:
            client.send(keyed(chat("slow=0.05", stream=True)))
            await client.head()
            await client.chunk()
            house.exchanges.cut_all_short(OVER)
            assert await told(house, 1) == [ClaimEnd.FORFEITED]


async def test_an_ending_that_could_not_be_written_leaves_its_place_to_the_next() -> None:
    """The client got an error although it may be charged: that is ours to mend."""
    async with built() as house:
        house.ledger.journal_works = False
        assert (await asked(house)).status == 500
        assert await told(house, 1) == [ClaimEnd.FORFEITED]


async def test_a_background_response_is_kept_while_it_goes_on() -> None:
    """Whoever asks again gets the same response's id, not a second response."""
    body = {"model": "gpt-4o", "input": "Say hello.", "background": True, "max_output_tokens": 30}
    async with built() as house:
        first = await house.ask("/v1/responses", body, Idempotency_Key=KEY)
        second = await house.ask("/v1/responses", body, Idempotency_Key=KEY)
        assert first.status == 200
        assert second.body == first.body
        assert await told(house, 1) == [ClaimEnd.ANSWERED]


@pytest.mark.parametrize("written", [True, False])
async def test_ids_of_an_answer_that_nobody_saw_belong_to_who_asks_again(written: bool) -> None:
    """What a kept answer names must have been written down; where that failed nobody gets to see it."""
    body = {"model": "gpt-4o", "input": "Say. [[simulate: slow=0.01]]", "stream": True, "max_output_tokens": 30}
    async with built() as house:
        async with house.client() as client:
            client.send(request("/v1/responses", body, Idempotency_Key=KEY))
            await until(lambda: house.ledger.placed)
            house.owners.journal_works = written
            client.writer.transport.abort()
            assert await told(house, 1) == [ClaimEnd.ANSWERED if written else ClaimEnd.UNKEPT]
        house.owners.journal_works = True
        again = await house.ask("/v1/responses", body, Idempotency_Key=KEY)
        assert again.status == (200 if written else 409)
        if written:
            assert again.body.count(b"event: response.incomplete") == 1
            named = set(re.findall(rb'"(?:resp|msg)_\w+"', again.body))
            assert named == {b'"%b"' % resource.id.encode() for resource in house.owners.claimed}


@pytest.mark.parametrize("fault", ["compress=gzip", "close_delimited", "piece=3"])
@pytest.mark.parametrize("leaves", [False, True])
async def test_streams_of_any_form_are_kept_byte_for_byte(fault: str, leaves: bool) -> None:
    """However the provider sends it: compressed, in small pieces, without a length."""
    body = chat(fault + (",slow=0.001" if leaves else ""), stream=True, max_tokens=5)
    async with built() as house:
        async with house.client() as client:
            client.send(keyed(body))
            first = await client.chunk() if (await client.head()) and leaves else await client.answer_body()
            client.writer.transport.abort()
        again = await asked(house, body)
        assert again.headers["x-meterproxy-replayed"] == "true"
        assert again.body.startswith(first) if leaves else again.body == first
        assert fault.startswith("compress") or again.body.endswith(b"data: [DONE]\n\n")
        assert len(house.ledger.rows) == 1


async def test_one_account_has_its_share_of_look_ups_only() -> None:
    """The rest of it waits in line; too many are refused, and nobody else hears of any of it."""
    line = shares.Shares(1)
    account, other = UUID(int=1), UUID(int=2)
    order: list[str] = []

    async def use(name: str, of: UUID) -> None:
        async with line.taken(of):
            order.append(name)
            await asyncio.sleep(0)

    await asyncio.gather(use("a", account), use("b", account), use("c", account), use("other", other))
    assert order == ["a", "other", "b", "c"]
    assert len(line) == 0
    async with line.taken(account):
        waiting = [asyncio.create_task(use("", account)) for _ in range(shares.WAITING)]
        results = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        (refused,) = results[0]
        assert isinstance(refused.exception(), ApiError)
    await asyncio.wait(results[1])


async def test_a_long_body_is_told_apart_too() -> None:
    """Every byte counts, also of bodies that are hashed beside the loop."""
    async with built() as house:
        long = chat(metadata={"a": "x" * (2 << 20)})
        assert (await asked(house, long)).status == (await asked(house, long)).status == 200
        assert (await asked(house, chat(metadata={"a": "x" * (2 << 20) + "y"}))).status == 409
        assert len(house.ledger.rows) == 1


def _events(body: bytes) -> list[bytes]:
    """The events of a stream without what differs from one answer to the next."""
    return [
        re.sub(rb'"(id|created|system_fingerprint|obfuscation)":("[^"]*"|\d+)', b"", event)
        for event in body.split(b"\n\n")
    ]
