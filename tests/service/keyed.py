"""Clients that never give up, each request under a key of its own, while workers are killed at random.

`python -m tests.service.keyed --kills 30` runs it and prints what it found. Each request is repeated under its key until
an answer has come whole; some clients hang up in the middle first, or ask twice at once. In the end each account has
paid for each of its keys once, and every invariant holds. (Who asks twice at once may get two answers: one before its
worker's death, which took it along before it was kept, and one after.)
"""

import argparse
import asyncio
import json
import random
import sys
from collections import Counter
from typing import Any
from uuid import uuid4

import aiohttp

from meterproxy.store.idempotency import reverse_replaced
from meterproxy.store.pool import open_pool
from tests import postgres
from tests.service.load import MODEL, Customer, amount_of, customer
from tests.service.running import DEADLINE_SECONDS, POLL_SECONDS, Service, alive, kill, service, until

CLIENTS = 12
REPLAYED = "x-meterproxy-replayed"


class Keyed:
    """The clients, and what they were answered."""

    def __init__(self, running: Service, customers: list[Customer], chance: random.Random) -> None:
        self._service = running
        self._customers = customers
        self._chance = chance
        self.stopping = False
        self.paid: dict[str, Counter[str]] = {who.account_id: Counter() for who in customers}
        self.answers = 0
        self.seen: Counter[str] = Counter()

    async def run(self, session: aiohttp.ClientSession) -> None:
        """One client, request after request, until it is told to stop."""
        while not self.stopping:
            who, key = self._chance.choice(self._customers), uuid4().hex
            body = _body(stream=self._chance.random() < 0.6, tokens=self._chance.randint(1, 30))
            if self._chance.random() < 0.3:
                await self._hang_up(session, who, key, body)
            asked = [self._insist(session, who, key, body) for _ in range(self._chance.choice((1, 1, 2)))]
            results = await asyncio.gather(*asked)
            self.seen["two answers"] += len({text for text, _ in results}) - 1
            assert len({amount for _, amount in results}) == 1, "the simulator's answers to one body cost the same"
            self.paid[who.account_id][key] = results[0][1]
            self.answers += 1

    async def _insist(
        self, session: aiohttp.ClientSession, who: Customer, key: str, body: dict[str, Any]
    ) -> tuple[bytes, int]:
        """Ask until the answer has come whole; the answer, and what it must have cost."""
        while True:
            try:
                async with self._ask(session, who, key, body) as answer:
                    content = await answer.read()
                    self.seen[f"{answer.status}{' again' if REPLAYED in answer.headers else ''}"] += 1
                    usage = _usage(content, stream="stream" in body) if answer.status == 200 else None
                    if usage is not None:
                        return content, amount_of(usage)
                    assert answer.status in {200, 409, 503}, content
                    assert answer.headers.get("x-should-retry") != "false", content
            except (aiohttp.ClientError, TimeoutError) as error:
                self.seen[type(error).__name__] += 1
            await asyncio.sleep(POLL_SECONDS)

    async def _hang_up(self, session: aiohttp.ClientSession, who: Customer, key: str, body: dict[str, Any]) -> None:
        """Ask, and leave before the answer is there."""
        try:
            async with asyncio.timeout(self._chance.uniform(0.0, 0.05)):
                async with self._ask(session, who, key, body) as answer:
                    await answer.content.readany()
                    answer.close()
        except (aiohttp.ClientError, TimeoutError):
            return

    def _ask(self, session: aiohttp.ClientSession, who: Customer, key: str, body: dict[str, Any]) -> Any:
        headers = {"Authorization": f"Bearer {who.secret}", "Idempotency-Key": key}
        return session.post(f"{self._service.base_url}/chat/completions", json=body, headers=headers)


def _body(*, stream: bool, tokens: int) -> dict[str, Any]:
    slow = "[[simulate: slow=0.005]]" if stream else ""
    body = {"model": MODEL, "messages": [{"role": "user", "content": f"Say it. {slow}"}], "max_tokens": tokens}
    return body | ({"stream": True, "stream_options": {"include_usage": True}} if stream else {})


def _usage(content: bytes, *, stream: bool) -> dict[str, Any] | None:
    """The usage of an answer, None where it is not whole."""
    if not stream:
        return json.loads(content)["usage"]
    events = [line.removeprefix(b"data: ") for line in content.split(b"\n") if line.startswith(b"data: ")]
    if not events or events[-1] != b"[DONE]":
        return None
    found = [event.get("usage") for event in map(json.loads, events[:-1])]
    return next(usage for usage in reversed(found) if usage)


async def check(running: Service, customers: list[Customer], keyed: Keyed) -> Counter[str]:
    """Each account has paid for each of its keys once; answers how many rows ended how, and the reversals."""
    pool = await open_pool(running.dsn(), size=1)
    try:
        for who in customers:
            await running.balance_nanos(who.account_id)
        await pool.execute("UPDATE replaced_requests SET next_look_at = now() WHERE state = 'pending'")
        async with asyncio.timeout(DEADLINE_SECONDS):  # the service looks too, and may have taken some just now
            while await pool.fetchval("SELECT count(*) FROM replaced_requests WHERE state = 'pending'"):
                await reverse_replaced(pool)
                await asyncio.sleep(POLL_SECONDS)
    finally:
        await pool.close()
    for who in customers:
        expected = who.credit_nanos - keyed.paid[who.account_id].total()
        found = await running.balance_nanos(who.account_id)
        assert found == expected, (who, found - expected, keyed.seen)
    await running.invariants()
    rows = await running.rows("SELECT ending FROM usage_events UNION ALL SELECT state FROM replaced_requests")
    return Counter(row["ending"] for row in rows)


async def campaign(kills: int, seed: int) -> None:
    """Kill the worker so often under such load, and look at the books."""
    chance = random.Random(seed)
    with postgres.reachable_directory() as directory:
        async with service(directory) as running:
            customers = [await customer(running) for _ in range(4)]
            keyed = Keyed(running, customers, chance)
            timeout = aiohttp.ClientTimeout(total=90)
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
                clients = [asyncio.create_task(keyed.run(session)) for _ in range(CLIENTS)]
                for _ in range(kills):
                    wanted = keyed.answers + chance.randint(1, 40)
                    await until(lambda wanted=wanted: keyed.answers >= wanted, "answers")
                    worker = running.worker()
                    kill(worker)
                    await until(lambda worker=worker: not alive(worker), "the worker's death")
                    await running.ready()
                keyed.stopping = True
                await asyncio.gather(*clients)
            endings = await check(running, customers, keyed)
    sys.stdout.write(f"{kills} kills, {keyed.answers} keys answered; seen {dict(keyed.seen)}; rows {dict(endings)}\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.service.keyed", description=__doc__)
    parser.add_argument("--kills", type=int, default=30, help="how often the worker is killed")
    parser.add_argument("--seed", type=int, default=1, help="of all that is left to chance")
    asked = parser.parse_args()
    asyncio.run(campaign(asked.kills, asked.seed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
