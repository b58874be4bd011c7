"""Try to spend more than there is, from every side at once: `python -m bench.exact [part …]`.

Each part starts from accounts of its own on one service with several workers, lets many clients ask until they are
told no, and then compares the books with what was there: credit, many accounts at once, budgets on three levels,
requests and tokens per minute, concurrency, an account without credit in a tight loop, a revoked key, a large request
beside idle leases, and streams whose holds are adaptive.
"""

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from statistics import median
from typing import Any, Final

import aiohttp
import yaml

from bench.kills import PROVIDER
from meterproxy.core.money import NANOS_PER_USD, format_usd
from tests.postgres import reachable_directory
from tests.service.load import Customer, Refused, Whole, ask, customer
from tests.service.running import Service, service

Facts = dict[str, Any]
"""What a part saw, by the words of its table; a `broken` one names the promise that was not kept."""

BROKEN: Final = "broken"
CLIENTS: Final = 200
HELD_PAUSE_SECONDS: Final = 0.02
TOKENS: Final = 12
MOST_SECONDS: Final = 120.0
EXPOSURE_NANOS: Final = 50_000_000
"""Of each account while holds are adaptive."""
MINUTE_TOKENS: Final = 5000
"""Of the account whose tokens are limited."""
LARGEST_HOLD_NANOS: Final = 300_000
"""More than any request of these clients may hold."""


class Askers:
    """Clients that ask until they hear that nothing is left, or until the time is over."""

    def __init__(self, running: Service, seconds: float = MOST_SECONDS) -> None:
        self._service = running
        self._until = time.monotonic() + seconds
        self.whole: list[Whole] = []
        self.heard: Counter[str] = Counter()
        self.open = 0
        self.most_open = 0

    @asynccontextmanager
    async def session(self, connections: int = 0) -> AsyncIterator[aiohttp.ClientSession]:
        connector = aiohttp.TCPConnector(limit=connections)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as session:
            yield session

    async def all_spend(self, customers: list[Customer], clients: int = CLIENTS) -> None:
        """Let so many clients spend all that these customers have."""
        async with self.session() as session:
            share = [
                customers[at % len(customers) :: clients] or [customers[at % len(customers)]] for at in range(clients)
            ]
            await asyncio.gather(*(self.spend(session, mine) for mine in share))

    async def spend(self, session: aiohttp.ClientSession, customers: list[Customer], simulate: str = "") -> None:
        """One client, one customer after the other, each until it hears that nothing is left."""
        for who in customers:
            while time.monotonic() < self._until:
                answer = await self.once(session, who, simulate)
                if isinstance(answer, Refused):
                    if answer.code != "rate_limit_exceeded":
                        break
                    await asyncio.sleep(HELD_PAUSE_SECONDS)

    async def once(self, session: aiohttp.ClientSession, who: Customer, simulate: str = "") -> Whole | Refused:
        answer = await ask(session, self._service, who, stream=bool(simulate), simulate=simulate, tokens=TOKENS)
        if isinstance(answer, Whole):
            self.whole.append(answer)
        else:
            self.heard[answer.code or str(answer.status)] += 1
        return answer


async def credit(running: Service) -> Facts:
    """Two hundred clients against one small credit."""
    return await _spent_to_the_end(running, [await customer(running, NANOS_PER_USD // 50)])


async def accounts(running: Service) -> Facts:
    """A thousand accounts at once, each with little."""
    made: list[Customer] = []
    for _ in range(20):
        made += await asyncio.gather(*(customer(running, 500_000) for _ in range(50)))
    return await _spent_to_the_end(running, made)


async def _spent_to_the_end(running: Service, customers: list[Customer]) -> Facts:
    askers = Askers(running)
    began = time.monotonic()
    await askers.all_spend(customers)
    seconds = time.monotonic() - began
    left = [await running.balance_nanos(who.account_id) for who in customers]
    charged = Counter[str]()
    for answer in askers.whole:
        charged[answer.account_id] += answer.amount_nanos
    off = sum(nanos != who.credit_nanos - charged[who.account_id] for who, nanos in zip(customers, left, strict=True))
    return {
        "accounts": len(customers),
        "answers": f"{len(askers.whole)} in {seconds:.1f} s",
        "refusals": dict(askers.heard),
        "nanodollars over": sum(max(-nanos, 0) for nanos in left),
        "left at the end, most": f"{max(left)} nanodollars",
        **await _books(running),
        BROKEN: _named(
            overspent=any(nanos < 0 for nanos in left),
            unused_above_one_hold=max(left) >= LARGEST_HOLD_NANOS,
            charged_otherwise_than_answered=off,
        ),
    }


async def budgets(running: Service) -> Facts:
    """Budgets of a key, its user and the whole account, each with less than the credit."""
    account_id, secret = await running.customer("5.00")
    (key,) = (await running.admin("GET", f"/admin/keys?account_id={account_id}", status=200))["data"]
    other = await running.admin("POST", "/admin/keys", {"account_id": account_id, "name": "other"}, status=201)
    caps = {"key": "0.004", "user": "0.007", "account": "0.006"}
    scopes = {"key": key["id"], "user": key["user_id"], "account": account_id}
    made = {
        scope: await running.admin(
            "POST", "/admin/limits",
            {"scope": scope, "scope_id": scopes[scope], "measure": "amount", "window": "day", "cap": cap}, status=201,
        )
        for scope, cap in caps.items()
    }  # fmt: skip
    await asyncio.sleep(1.0)  # what is promised: in force within a second
    askers = Askers(running)
    await askers.all_spend([Customer(account_id, secret, 0), Customer(account_id, other["key"], 0)])
    await running.balance_nanos(account_id)
    status = {
        scope: await running.admin("GET", f"/admin/limits/{limit['id']}/status?fresh=1", status=200)
        for scope, limit in made.items()
    }
    over = {scope: told for scope, told in status.items() if float(told["used"]) > float(caps[scope])}
    return {
        "answers": len(askers.whole),
        "refusals": dict(askers.heard),
        **{f"used of {caps[scope]} ({scope})": told["used"] for scope, told in status.items()},
        **await _books(running),
        BROKEN: _named(overspent=over, budgets_not_named=askers.heard["budget_exceeded"] == 0),
    }


async def requests(running: Service) -> Facts:
    """600 requests a minute, asked for from everywhere, then over one connection."""
    facts: Facts = {}
    for name, connections in (("everywhere", 0), ("one connection", 1)):
        account_id, secret = await running.customer("5.00")
        await running.admin(
            "POST", "/admin/limits",
            {"scope": "account", "scope_id": account_id, "measure": "requests", "window": "minute", "cap": 600},
            status=201,
        )  # fmt: skip
        await asyncio.sleep(1.0)
        askers = Askers(running, seconds=150.0)
        async with askers.session(connections) as session:
            who = Customer(account_id, secret, 0)
            await asyncio.gather(*(askers.spend(session, [who]) for _ in range(40 if not connections else 1)))
        await running.balance_nanos(account_id)
        minutes = await running.rows(
            "SELECT date_trunc('minute', occurred_at) AS minute, count(*) AS rows FROM usage_events "
            "WHERE account_id = $1::uuid GROUP BY 1 ORDER BY 1", account_id,
        )  # fmt: skip
        counts = [row["rows"] for row in minutes]
        whole_minutes = counts[1:-1]
        facts[f"requests by minute, {name}"] = counts
        facts[BROKEN] = facts.get(BROKEN, "") + _named(
            one_too_many=max(counts) > 600, unused=whole_minutes and min(whole_minutes) < 570
        )
    return facts | await _books(running)


async def tokens(running: Service) -> Facts:
    """So many tokens a minute, asked for from everywhere: none above, and at the edge less left than one hold."""
    account_id, secret = await running.customer("5.00")
    await running.admin(
        "POST", "/admin/limits",
        {"scope": "account", "scope_id": account_id, "measure": "tokens", "window": "minute", "cap": MINUTE_TOKENS},
        status=201,
    )  # fmt: skip
    await asyncio.sleep(1.0)
    askers = Askers(running, seconds=130.0)
    async with askers.session() as session:
        await asyncio.gather(*(askers.spend(session, [Customer(account_id, secret, 0)]) for _ in range(40)))
    await running.balance_nanos(account_id)
    minutes = await running.rows(
        "SELECT date_trunc('minute', occurred_at) AS minute, sum(input_tokens + output_tokens)::bigint AS tokens, "
        "max(bound_input_tokens + bound_output_tokens) AS held FROM usage_events WHERE account_id = $1::uuid "
        "GROUP BY 1 ORDER BY 1", account_id,
    )  # fmt: skip
    used, held = [row["tokens"] for row in minutes], max(row["held"] for row in minutes)
    whole_minutes = used[1:-1]
    return {
        "answers": len(askers.whole),
        "tokens by minute": used,
        "allowed, and held by one request": f"{MINUTE_TOKENS}, {held}",
        **await _books(running),
        BROKEN: _named(
            one_too_many=max(used) > MINUTE_TOKENS,
            unused_at_the_edge=not whole_minutes or MINUTE_TOKENS - min(whole_minutes) >= held,
        ),
    }


async def concurrent(running: Service) -> Facts:
    """Eight at once, asked for by forty clients: counted from the head of an answer to its end."""
    account_id, secret = await running.customer("5.00")
    await running.admin(
        "POST", "/admin/limits",
        {"scope": "account", "scope_id": account_id, "measure": "concurrent", "cap": 8}, status=201,
    )  # fmt: skip
    await asyncio.sleep(1.0)
    open_now = most = whole = 0
    heard: Counter[int] = Counter()
    over = time.monotonic() + 20

    async def client(session: aiohttp.ClientSession) -> None:
        nonlocal open_now, most, whole
        body = {"model": "gpt-4o-mini", "max_tokens": TOKENS, "stream": True,
                "messages": [{"role": "user", "content": "[[simulate: slow=0.02]]"}]}  # fmt: skip
        while time.monotonic() < over:
            async with session.post(
                f"{running.base_url}/chat/completions", json=body, headers={"Authorization": f"Bearer {secret}"}
            ) as answer:
                heard[answer.status] += 1
                if answer.status != 200:
                    await asyncio.sleep(HELD_PAUSE_SECONDS)
                    continue
                open_now += 1
                most = max(most, open_now)
                while line := await answer.content.readline():
                    if line.strip() == b"data: [DONE]":
                        break
                open_now -= 1
                whole += 1

    async with Askers(running).session() as session:
        await asyncio.gather(*(client(session) for _ in range(40)))
    return {"whole streams": whole, "statuses": dict(heard), "most at once": most, **await _books(running),
            BROKEN: _named(more_at_once_than_allowed=most > 8)}  # fmt: skip


async def empty(running: Service) -> Facts:
    """An account without credit, asked for in a tight loop by fifty clients."""
    account_id, secret = await running.customer("0")
    who = Customer(account_id, secret, 0)
    seconds = 10.0
    idle = await _transactions_in(running, asyncio.sleep(seconds))
    asked = 0

    async def client(session: aiohttp.ClientSession) -> None:
        nonlocal asked
        over = time.monotonic() + seconds
        while time.monotonic() < over:
            answer = await ask(session, running, who, stream=False)
            assert isinstance(answer, Refused), answer
            asked += 1

    async with Askers(running).session() as session:
        busy = await _transactions_in(running, asyncio.gather(*(client(session) for _ in range(50))))
    return {
        "refusals": asked,
        "transactions a second, idle": f"{idle / seconds:.1f}",
        "more than idle, for the whole loop": f"{(busy - idle) / seconds:.1f} a second",
        BROKEN: _named(two_or_more_a_second=(busy - idle) / seconds >= 2),
    }


async def _transactions_in(running: Service, work: Awaitable[object]) -> int:
    query = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
    (before,) = await running.rows(query)
    await work
    (after,) = await running.rows(query)
    return int(after["xact_commit"]) - int(before["xact_commit"])


async def revoked(running: Service) -> Facts:
    """A key that sixteen connections ask with is revoked: when it is refused on each of them, fifty times."""
    account_id, _ = await running.customer("5")
    took: list[float] = []
    for _ in range(50):
        key = await running.admin("POST", "/admin/keys", {"account_id": account_id, "name": "revoked"}, status=201)
        who = Customer(account_id, key["key"], 0)

        async def client(who: Customer = who) -> float:
            async with Askers(running).session(1) as session:
                while not isinstance(await ask(session, running, who, stream=False), Refused):
                    pass
                return time.monotonic()

        clients = [asyncio.create_task(client()) for _ in range(16)]
        await asyncio.sleep(0.3)
        await running.admin("DELETE", f"/admin/keys/{key['id']}")
        at = time.monotonic()
        took += [max(ended - at, 0.0) for ended in await asyncio.gather(*clients)]
    return {
        "keys, connections": "50, 16 each",
        "refused after, median": f"{median(took) * 1000:.0f} ms",
        "refused after, longest": f"{max(took) * 1000:.0f} ms",
        BROKEN: _named(later_than_a_second=max(took) > 1),
    }


async def fairness(running: Service) -> Facts:
    """Small requests leave leases with all workers; then one asks for nearly all of the credit."""
    fixed_nanos, token_nanos = await _hold_of_tokens(running)
    took: list[float] = []
    refused: Counter[str] = Counter()
    for _ in range(20):
        who = await customer(running, NANOS_PER_USD // 100)
        askers = Askers(running)
        for _ in range(16):
            async with askers.session(1) as session:
                await askers.once(session, who)
        left = await running.balance_nanos(who.account_id)
        began = time.monotonic()
        async with askers.session(1) as session:
            tokens = (left * 95 // 100 - fixed_nanos) // token_nanos
            answer = await ask(session, running, who, stream=False, simulate="tokens=20", tokens=tokens)
        if isinstance(answer, Refused):
            refused[answer.code or str(answer.status)] += 1
        took.append(time.monotonic() - began)
    return {
        "tries": len(took),
        "refused": dict(refused),
        "served after, median": f"{median(took):.2f} s",
        "served after, longest": f"{max(took):.2f} s",
        BROKEN: _named(refused_though_free=refused),
    }


async def _hold_of_tokens(running: Service) -> tuple[int, int]:
    """What is held for such a request whatever its maximum, and for each token of that."""
    who = await customer(running)
    few, many = 10, 10_010
    async with Askers(running).session() as session:
        for tokens in (few, many):
            await ask(session, running, who, stream=False, simulate="tokens=5", tokens=tokens)
    await running.balance_nanos(who.account_id)
    rows = await running.rows(
        "SELECT hold_nanos FROM usage_events WHERE account_id = $1::uuid ORDER BY hold_nanos", who.account_id
    )
    small, large = (row["hold_nanos"] for row in rows)
    token_nanos = -((small - large) // (many - few))
    return small - few * token_nanos, token_nanos


async def _books(running: Service) -> Facts:
    """What the books say about all of it so far."""
    (row,) = await running.rows(
        "SELECT COALESCE(sum(GREATEST(drawn - overrun - late - counted - cap, 0)), 0)::bigint AS over_lent, "
        "COALESCE(sum(overrun), 0)::bigint AS overrun, COALESCE(sum(late), 0)::bigint AS late FROM limit_windows"
    )
    await running.invariants()
    return {"over-lent, overrun, late": f"{row['over_lent']}, {row['overrun']}, {row['late']}", "audit": "clean"}


async def adaptive(running: Service) -> Facts:
    """Small credits under adaptive holds: two hundred streams of unforeseen length at a time, until nothing is left."""
    customers = [await customer(running, NANOS_PER_USD // 100) for _ in range(10)]
    askers = Askers(running, seconds=60.0)
    most_exposed = 0

    async def watch() -> None:
        nonlocal most_exposed
        while True:
            rows = await running.rows(
                "SELECT drawn FROM limit_windows w JOIN limits c ON c.id = w.limit_id WHERE c.kind = 'exposure'"
            )
            most_exposed = max([most_exposed, *(row["drawn"] for row in rows)])
            await asyncio.sleep(0.1)

    async def client(session: aiohttp.ClientSession, number: int) -> None:
        who, lengths = customers[number % len(customers)], random.Random(number)
        over = time.monotonic() + 60.0
        while time.monotonic() < over:
            simulate = f"tokens={lengths.choice([20, 200, 1200, 6000])}"
            answer = await ask(session, running, who, stream=True, simulate=simulate, tokens=16_000)
            if isinstance(answer, Whole):
                askers.whole.append(answer)
            else:
                askers.heard[answer.code or str(answer.status)] += 1
                if answer.code != "rate_limit_exceeded":
                    return
                await asyncio.sleep(HELD_PAUSE_SECONDS)

    async with askers.session() as session:
        watching = asyncio.create_task(watch())
        await asyncio.gather(*(client(session, number) for number in range(CLIENTS)))
        watching.cancel()
    left = [await running.balance_nanos(who.account_id) for who in customers]
    outcomes = await running.rows(
        "SELECT outcome, count(*) AS rows, sum(overrun_nanos)::bigint AS overrun FROM usage_events "
        "WHERE account_id = ANY ($1::uuid[]) GROUP BY 1", [who.account_id for who in customers],
    )  # fmt: skip
    over = max([max(-nanos, 0) for nanos in left])
    return {
        "accounts, credit each": f"{len(customers)}, $0.01",
        "answers": len(askers.whole),
        "outcomes": {row["outcome"]: row["rows"] for row in outcomes},
        "refusals": dict(askers.heard),
        "exposure allowed, most lent": f"{EXPOSURE_NANOS}, {most_exposed} nanodollars",
        "nanodollars over, most of one account": over,
        "left at the end, most": f"{max(left)} nanodollars",
        **await _books(running),
        BROKEN: _named(overshoot_above_exposure=over > EXPOSURE_NANOS, exposed_too_much=most_exposed > EXPOSURE_NANOS),
    }


def _named(**promises: object) -> str:
    return ", ".join(name.replace("_", " ") for name, is_broken in promises.items() if is_broken)


WORKERS: Final = 4
PARTS: Final[Mapping[str, Callable[[Service], Awaitable[Facts]]]] = {
    part.__name__: part
    for part in (credit, accounts, budgets, requests, tokens, concurrent, empty, revoked, fairness, adaptive)
}


def show(name: str, facts: Facts) -> None:
    print(f"\n### {name}\n\n| what | figure |\n|---|---|")
    for what, value in facts.items():
        shown = ", ".join(f"{key} {count}" for key, count in value.items()) if isinstance(value, dict) else value
        print(f"| {what} | {shown or 'nothing'} |", flush=True)


async def run(names: list[str]) -> bool:
    """Run these parts, those that want adaptive holds on a service of their own; whether all promises were kept."""
    right = True
    for policy in ("worst_case", "adaptive"):
        chosen = [name for name in names if (name == adaptive.__name__) == (policy == "adaptive")]
        if not chosen:
            continue
        with reachable_directory() as directory:
            config = directory / "config.yaml"
            holds = {"hold": {"policy": policy}, "adaptive": {"exposure": format_usd(EXPOSURE_NANOS)}}
            config.write_text(yaml.safe_dump({"workers": WORKERS, "providers": {"openai": PROVIDER}, **holds}))
            async with service(directory, environment={"METERPROXY_CONFIG": str(config)}) as running:
                for name in chosen:
                    facts = await PARTS[name](running)
                    show(name, facts)
                    right = right and not facts[BROKEN]
    return right


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.exact", description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)} (default all)")
    names = parser.parse_args().parts or list(PARTS)
    if unknown := set(names) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    return 0 if asyncio.run(run(names)) else 1


if __name__ == "__main__":
    sys.exit(main())
