"""Kill a service again and again under load, and count what its books miss: `python -m bench.kills --rounds 500`.

Clients ask for plain answers and streams, some leave their streams half-way; they remember each answer that they got
whole, and what it must have cost. `kill -9` hits a random worker, the supervisor, or every process of the service at
once, PostgreSQL's too; some blows come while the last one is still being recovered from. At the end each whole answer
must have one row and one deduction, the books must add up, and nothing may be lent to the dead.
"""

import argparse
import asyncio
import contextlib
import math
import random
import shutil
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

import aiohttp
import asyncpg
import yaml

from meterproxy.store.audit import audit
from meterproxy.store.pool import open_pool
from tests.postgres import reachable_directory
from tests.service.load import Customer, Load, customer
from tests.service.running import MORTAL, Service, alive, kill, service, until

BLOWS: Final = ("worker",) * 17 + ("supervisor",) + ("everything",) * 2
"""What is hit, by its share."""
MOST_ANSWERS: Final = 40
"""Between two blows."""
CUSTOMERS: Final = 6
LEAVERS_SHARE: Final = 0.25
BACK_SECONDS: Final = 60.0
SERVES: Final = "serves on"


@dataclass
class Campaign:
    """What was done, and how long it took until workers and leases were back."""

    blows: Counter[str] = field(default_factory=Counter)
    back_seconds: dict[str, list[float]] = field(default_factory=dict)

    def came_back(self, blow: str, seconds: float) -> None:
        self.back_seconds.setdefault(blow, []).append(seconds)


class Leavers:
    """Clients that leave a stream after a few of its lines."""

    def __init__(self, running: Service, customers: list[Customer], seed: int) -> None:
        self._service = running
        self._customers = customers
        self._random = random.Random(seed)
        self.left = 0

    async def keep_leaving(self) -> None:
        while True:
            try:
                async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
                    await self._leave(session)
            except (aiohttp.ClientError, TimeoutError):
                await asyncio.sleep(0.05)

    async def _leave(self, session: aiohttp.ClientSession) -> None:
        who = self._random.choice(self._customers)
        simulate = {"role": "user", "content": "[[simulate: slow=0.01]]"}
        body = {"model": "gpt-4o-mini", "messages": [simulate], "max_tokens": 100, "stream": True}
        headers = {"Authorization": f"Bearer {who.secret}"}
        async with session.post(f"{self._service.base_url}/chat/completions", json=body, headers=headers) as answer:
            if answer.status != 200:
                await asyncio.sleep(0.05)
                return
            for _ in range(self._random.randint(1, 20)):
                await answer.content.readline()
            self.left += 1


async def started(running: Service) -> None:
    """Start it again and wait for its own word: for a moment an orphan of the killed one may still say it is ready."""
    before = running.whole_log().count(SERVES)
    await running.start()
    await until(lambda: running.whole_log().count(SERVES) > before, "the start")


async def strike(running: Service, blow: str, seats: int, chance: random.Random, campaign: Campaign) -> None:
    """Hit once; wait for the recovery, but not always."""
    began = time.monotonic()
    workers = running.children().get("mp worker", [])
    if blow == "worker" and not workers:
        blow = "everything"
    campaign.blows[blow] += 1
    if blow == "worker":
        victim = chance.choice(workers)
        before = await live_sessions(running)
        kill(victim)
        if chance.random() < 0.5:
            await until(lambda: not alive(victim), "a death")
            return
        await leases_back(running, before, seats)
    elif blow == "supervisor":
        left = running.processes()
        await running.kill()
        await started(running)
        await until(lambda: not any(alive(pid) for pid in left), "the end of what was left")
    else:
        await running.kill_everything()
        await started(running)
    campaign.came_back(blow, time.monotonic() - began)


async def live_sessions(running: Service) -> set[str]:
    with contextlib.suppress(OSError, AssertionError, asyncpg.PostgresError):
        rows = await running.rows("SELECT id::text FROM worker_sessions WHERE state = 'live'")
        return {row["id"] for row in rows}
    return set()


async def leases_back(running: Service, before: set[str], workers: int) -> None:
    """Wait until as many sessions live as there are workers, and not the same ones: what was killed is proved.

    One that was killed before it had a session leaves none to be proved; its successor's is new all the same.
    """
    now = before
    try:
        async with asyncio.timeout(BACK_SECONDS):
            while now == before or len(now) != workers:
                await asyncio.sleep(0.02)
                now = await live_sessions(running)
    except TimeoutError as error:
        text = f"{workers} workers should be back after {BACK_SECONDS:g} s; live sessions were {before}, are {now}"
        raise TimeoutError(text) from error


async def verdict(running: Service, customers: list[Customer], load: Load) -> dict[str, Any]:
    """Compare what clients got with the books."""
    for who in customers:
        await running.admin("GET", f"/admin/accounts/{who.account_id}?fresh=1", status=200)
    rows = await running.rows("SELECT id::text, account_id::text, amount_nanos, ending FROM usage_events")
    deducted = await running.rows(
        "SELECT request_id::text, count(*) AS entries, sum(amount_nanos)::bigint AS nanos FROM ledger_entries "
        "WHERE kind = 'deduction' GROUP BY 1"
    )
    by_id = {row["id"]: row for row in rows}
    charged = {row["request_id"]: row for row in deducted}
    missing = [answer for answer in load.whole if answer.request_id not in by_id]
    wrong = [
        answer
        for answer in load.whole
        if answer.request_id in by_id
        and (
            by_id[answer.request_id]["amount_nanos"] != answer.amount_nanos
            or answer.request_id not in charged
            or charged[answer.request_id]["nanos"] != -answer.amount_nanos
        )
    ]
    off = await running.rows(  # in one snapshot: streams that were left may still be read to their ends
        "SELECT a.id FROM accounts a WHERE a.balance_nanos <> a.credits_nanos - "
        "COALESCE((SELECT sum(u.amount_nanos) FROM usage_events u WHERE u.account_id = a.id), 0)"
    )
    (left,) = await running.rows(
        "SELECT count(*) AS leases FROM leases l JOIN worker_sessions s ON s.id = l.session_id "
        "WHERE s.state <> 'live' AND l.granted <> l.consumed + l.returned"
    )
    pool = await open_pool(running.dsn(), size=1)
    try:
        broken = [result.name for result in await audit(pool) if not result.ok]
    finally:
        await pool.close()
    return {
        "answers that clients got whole": len(load.whole),
        "missing": len(missing),
        "doubled": len(rows) - len(by_id) + sum(row["entries"] > 1 for row in deducted),
        "charged otherwise than they cost": len(wrong),
        "balances that are not the sum": len(off),
        "leases left with the dead": left["leases"],
        "invariants broken": ", ".join(broken) or 0,
        "rows by ending": dict(Counter(row["ending"] for row in rows)),
    }


async def run(options: argparse.Namespace, directory: Path) -> bool:
    """The whole campaign; answers whether the books were right."""
    chance = random.Random(options.seed)
    campaign = Campaign()
    over = time.monotonic() + options.minutes * 60
    (directory / "deaths").mkdir()
    config = directory / "config.yaml"
    holds = {"hold": {"policy": "adaptive"}, "adaptive": {"exposure": "1"}} if options.adaptive else {}
    config.write_text(yaml.safe_dump({"workers": options.workers, "providers": {"openai": PROVIDER}, **holds}))
    environment = {"METERPROXY_CONFIG": str(config), "METERPROXY_TEST_DEATHS": str(directory / "deaths")}
    async with service(directory, environment=environment, program=MORTAL) as running:
        customers = [await customer(running) for _ in range(CUSTOMERS)]
        leavers = Leavers(running, customers, options.seed)
        load = Load(running, customers, options.seed)
        async with load.running(options.clients):
            leaving = [asyncio.create_task(leavers.keep_leaving()) for _ in range(int(options.clients * LEAVERS_SHARE))]
            for at in range(options.rounds):
                if time.monotonic() > over:
                    break
                await until(load.more(chance.randint(1, MOST_ANSWERS)), "answers")
                await strike(running, chance.choice(BLOWS), options.workers, chance, campaign)
                print(f"\r{at + 1} of {options.rounds} kills, {len(load.whole)} answers", end="", file=sys.stderr)
            await until(load.more(20), "answers after the last kill")
            for task in leaving:
                task.cancel()
            await asyncio.gather(*leaving, return_exceptions=True)
        print(file=sys.stderr)
        told = await verdict(running, customers, load)
    show(options, campaign, told, load, leavers.left)
    return not any(told[name] for name in MUST_BE_NOTHING)


PROVIDER: Final = {"base_url": "${OPENAI_BASE_URL}", "api_key": "sk-provider"}
MUST_BE_NOTHING: Final = (
    "missing",
    "doubled",
    "charged otherwise than they cost",
    "balances that are not the sum",
    "leases left with the dead",
    "invariants broken",
)


def show(options: argparse.Namespace, campaign: Campaign, told: dict[str, Any], load: Load, left: int) -> None:
    print(f"\n### {sum(campaign.blows.values())} kills, {options.workers} workers, seed {options.seed}\n")
    print("| what | figure |\n|---|---|")
    for blow, count in sorted(campaign.blows.items()):
        seconds = campaign.back_seconds.get(blow)
        back = f"; back after {median(seconds):.1f} s (median), {max(seconds):.1f} s (longest)" if seconds else ""
        print(f"| killed: {blow} | {count}{back} |")
    for name, value in told.items():
        print(f"| {name} | {value} |")
    print(f"| streams that their clients left | {left} |")
    print(f"| answers that broke off | {load.broken.total()} |")
    print(f"| refusals | {dict(Counter(refused.code for refused in load.refused)) or 0} |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.kills", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=500, help="how many kills (default 500)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="end after so many, whatever is left to do")
    parser.add_argument("--workers", type=int, default=3, help="workers of the service (default 3)")
    parser.add_argument("--clients", type=int, default=12, help="clients that ask (default 12)")
    parser.add_argument("--seed", type=int, default=1, help="of all that is random here")
    parser.add_argument("--adaptive", action="store_true", help="streams hold what they need, not their whole bound")
    options = parser.parse_args()
    with reachable_directory() as directory:
        try:
            return 0 if asyncio.run(run(options, directory)) else 1
        finally:
            if (directory / "serve.log").exists():
                shutil.copy(directory / "serve.log", f"{directory}.log")
                print(f"its log: {directory}.log", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
