"""A load of requests whose clients remember every answer that they have received whole, and what it must have cost."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiohttp

from meterproxy.core.money import NANOS_PER_USD, format_usd
from tests.service.running import POLL_SECONDS, Service

MODEL = "gpt-4o-mini"
INPUT_NANOS, OUTPUT_NANOS = 150, 600
REQUEST_ID = "x-meterproxy-request-id"
PAUSE_SECONDS = 0.03
"""Leaves the machine to the processes that die and start under a load."""


class Customer(NamedTuple):
    account_id: str
    secret: str
    credit_nanos: int


class Whole(NamedTuple):
    """An answer that a client has received to its end."""

    account_id: str
    request_id: str
    amount_nanos: int


class Refused(NamedTuple):
    """An answer that is no success."""

    status: int
    code: str | None
    headers: dict[str, str]

    @property
    def says_try_again(self) -> bool:
        """Whether this is how a service answers that is about to be there again."""
        return self.status == 503 and "retry-after" in self.headers


def amount_of(usage: dict[str, Any]) -> int:
    return INPUT_NANOS * int(usage["prompt_tokens"]) + OUTPUT_NANOS * int(usage["completion_tokens"])


async def customer(service: Service, credit_nanos: int = 5 * NANOS_PER_USD) -> Customer:
    account_id, secret = await service.customer(format_usd(credit_nanos))
    return Customer(account_id, secret, credit_nanos)


async def ask(
    session: aiohttp.ClientSession,
    service: Service,
    who: Customer,
    *,
    stream: bool,
    simulate: str = "",
    tokens: int = 12,
) -> Whole | Refused:
    """One request; raises aiohttp.ClientError where the answer breaks off."""
    body: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Say it."}], "max_tokens": tokens}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    if simulate:
        body["messages"].append({"role": "user", "content": f"[[simulate: {simulate}]]"})
    headers = {"Authorization": f"Bearer {who.secret}"}
    async with session.post(f"{service.base_url}/chat/completions", json=body, headers=headers) as answer:
        if answer.status != 200:
            code = (await answer.json())["error"]["code"]
            return Refused(answer.status, code, {name.lower(): value for name, value in answer.headers.items()})
        usage = await _streamed(answer) if stream else (await answer.json())["usage"]
        return Whole(who.account_id, answer.headers[REQUEST_ID], amount_of(usage))


async def _streamed(answer: aiohttp.ClientResponse) -> dict[str, Any]:
    """The usage of a stream that has come to its terminal event."""
    usage = None
    while line := await answer.content.readline():
        data = line.strip().removeprefix(b"data: ")
        if data == b"[DONE]":
            assert usage is not None
            return usage
        if data:
            event = json.loads(data)
            if "error" in event:
                raise aiohttp.ClientPayloadError("an error event")
            usage = event.get("usage") or usage
    raise aiohttp.ClientPayloadError("the stream broke off")


class Load:
    """Clients that ask again and again until they are told to stop.

    Args:
        pause_seconds: what a client waits after an answer, about: without it they take what the machine has, and what
            else happens on it takes as much longer.
    """

    def __init__(
        self, service: Service, customers: Sequence[Customer], seed: int = 1, pause_seconds: float = 0.0
    ) -> None:
        self._service = service
        self._pause_seconds = pause_seconds
        self.customers = customers
        self._random = random.Random(seed)
        self._stopping = False
        self.whole: list[Whole] = []
        self.refused: list[Refused] = []
        self.broken: Counter[str] = Counter()

    @asynccontextmanager
    async def running(self, clients: int) -> AsyncIterator["Load"]:
        """Ask for the duration of the block, and until every answer has come or broken off."""
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            tasks = [asyncio.create_task(self._client(session)) for _ in range(clients)]
            try:
                yield self
            finally:
                self._stopping = True
                await asyncio.gather(*tasks)

    async def _client(self, session: aiohttp.ClientSession) -> None:
        while not self._stopping:
            who = self._random.choice(self.customers)
            stream = self._random.random() < 0.5
            slow = "slow=0.005" if stream and self._random.random() < 0.3 else ""
            try:
                answer = await ask(
                    session, self._service, who, stream=stream, simulate=slow, tokens=self._random.randint(1, 40)
                )
            except (aiohttp.ClientError, TimeoutError) as error:
                self.broken[type(error).__name__] += 1
                await asyncio.sleep(POLL_SECONDS)
                continue
            if isinstance(answer, Whole):
                self.whole.append(answer)
                if self._pause_seconds:
                    await asyncio.sleep(2 * self._pause_seconds * self._random.random())
            else:
                self.refused.append(answer)
                await asyncio.sleep(POLL_SECONDS)

    @property
    def spent(self) -> bool:
        """Whether somebody was told that his credit is gone."""
        return any(refused.code == "insufficient_quota" for refused in self.refused)

    def more(self, answers: int) -> "Progress":
        """True once so many more answers have come whole."""
        return Progress(self, len(self.whole) + answers)


class Progress:
    def __init__(self, load: Load, wanted: int) -> None:
        self._load = load
        self._wanted = wanted

    def __call__(self) -> bool:
        return len(self._load.whole) >= self._wanted

    def __repr__(self) -> str:
        load = self._load
        return f"{len(load.whole)} of {self._wanted}, broken {dict(load.broken)}, refused {load.refused[-3:]}"


async def check_books(service: Service, customers: Sequence[Customer], whole: Sequence[Whole]) -> Counter[str]:
    """Everything received whole is booked once and exactly, balances add up, nothing is left lent to the dead.

    Answers how many rows ended how.
    """
    accounts = [who.account_id for who in customers]
    for account_id in accounts:
        await service.admin("GET", f"/admin/accounts/{account_id}?fresh=1", status=200)
    rows = await service.rows(
        "SELECT id::text, account_id::text, amount_nanos, ending FROM usage_events WHERE account_id = ANY($1::uuid[])",
        accounts,
    )
    by_id = {row["id"]: row for row in rows}
    assert len(by_id) == len(rows), "a request has two rows"
    for answer in whole:
        row = by_id.get(answer.request_id)
        assert row is not None, f"{answer} is missing"
        assert (row["account_id"], row["amount_nanos"]) == (answer.account_id, answer.amount_nanos), (answer, row)
    for who in customers:
        spent = sum(row["amount_nanos"] for row in rows if row["account_id"] == who.account_id)
        assert await service.balance_nanos(who.account_id) == who.credit_nanos - spent
    (left,) = await service.rows(
        "SELECT count(*) AS leases FROM leases l JOIN worker_sessions s ON s.id = l.session_id "
        "WHERE s.state <> 'live' AND l.granted <> l.consumed + l.returned"
    )
    assert left["leases"] == 0, "the dead still have money"
    await service.invariants()
    return Counter(row["ending"] for row in rows)


async def check_closed(service: Service) -> None:
    """After an orderly end nothing is lent any more: what is drawn is what was used. To be called with `rows` at hand."""
    wrong = await service.rows(
        "SELECT w.account_id FROM limit_windows w JOIN accounts a ON a.id = w.account_id "
        "WHERE w.drawn <> a.credits_nanos - a.balance_nanos"
    )
    assert not wrong, wrong
