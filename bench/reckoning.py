"""Reckoning: what clients of several hosts got, compared with the books that those hosts share."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from meterproxy.store.audit import audit
from meterproxy.store.pool import open_pool
from tests.service.load import Customer, Load, Refused
from tests.service.running import Service

MUST_BE_NOTHING: Final = (
    "missing",
    "doubled",
    "charged otherwise than they cost",
    "balances that are not the sum",
    "nanodollars over-lent",
    "refusals that do not say when to come again",
    "invariants broken",
)


async def settled(services: Sequence[Service], customers: Sequence[Customer]) -> None:
    """Have every host settle what it captured."""
    for running in services:
        for who in customers:
            await running.admin("GET", f"/admin/accounts/{who.account_id}?fresh=1", status=200)


async def reckon(
    running: Service, customers: Sequence[Customer], loads: Sequence[Load], recovered: int = 0
) -> dict[str, Any]:
    """Compare; `recovered` says how many answers may have been ended by recovery, at what was sure of them."""
    whole = [answer for load in loads for answer in load.whole]
    refused = [refusal for load in loads for refusal in load.refused]
    rows = {row["id"]: row for row in await running.rows("SELECT id::text, account_id::text, amount_nanos, ending, "
                                                         "flags FROM usage_events")}  # fmt: skip
    (doubled,) = await running.rows(
        "SELECT (SELECT count(*) - count(DISTINCT id) FROM usage_events)"
        " + (SELECT count(*) - count(DISTINCT request_id) FROM ledger_entries WHERE kind = 'deduction') AS rows"
    )
    found = [answer for answer in whole if answer.request_id in rows]
    wrong = [answer for answer in found if rows[answer.request_id]["amount_nanos"] != answer.amount_nanos]
    return {
        "answers that clients got whole": len(whole),
        "refusals": dict(Counter(str(refusal.code) for refusal in refused)),
        "broken connections": sum(sum(load.broken.values()) for load in loads),
        "missing": len(whole) - len(found),
        "doubled": doubled["rows"],
        "charged otherwise than they cost": max(len(wrong) - recovered, 0),
        "balances that are not the sum": await _off(running, customers),
        "nanodollars over-lent": await _over_lent(running),
        "booked late, in nanodollars": await _late(running),
        "refusals that do not say when to come again": sum(not _fair(refusal) for refusal in refused),
        "invariants broken": ", ".join(await _broken(running)) or 0,
        "rows by ending": dict(Counter(row["ending"] for row in rows.values())),
    }


def _fair(refusal: Refused) -> bool:
    """Whether it says "again soon" or that the credit is spent, which some customers' is."""
    return refusal.says_try_again or refusal.code in {"insufficient_quota", "rate_limit_exceeded"}


async def _off(running: Service, customers: Sequence[Customer]) -> int:
    sums = await running.rows(
        "SELECT account_id::text, sum(amount_nanos)::bigint AS spent FROM usage_events GROUP BY 1"
    )
    spent = {row["account_id"]: row["spent"] for row in sums}
    off = 0
    for who in customers:
        off += await running.balance_nanos(who.account_id) != who.credit_nanos - spent.get(who.account_id, 0)
    return off


async def _over_lent(running: Service) -> int:
    """By how much limits are drawn above their caps for anything but what is called an overrun or late."""
    (row,) = await running.rows(
        "SELECT COALESCE(sum(GREATEST(drawn - overrun - late - cap, 0)), 0)::bigint AS nanos FROM limit_windows"
    )
    return int(row["nanos"])


async def _late(running: Service) -> int:
    (row,) = await running.rows("SELECT COALESCE(sum(late), 0)::bigint AS nanos FROM limit_windows")
    return int(row["nanos"])


async def _broken(running: Service) -> list[str]:
    pool = await open_pool(running.dsn(), size=1)
    try:
        return [result.name for result in await audit(pool) if not result.ok]
    finally:
        await pool.close()


def show(title: str, facts: Mapping[str, Any], told: Mapping[str, Any]) -> bool:
    """Print the table; answers whether the books were right."""
    print(f"\n### {title}\n\n| what | figure |\n|---|---|")
    for name, value in {**facts, **told}.items():
        shown = ", ".join(f"{key} {count}" for key, count in value.items()) if isinstance(value, dict) else value
        print(f"| {name} | {shown if shown != '' else 0} |", flush=True)
    return not any(told[name] for name in MUST_BE_NOTHING)


async def during(loads: Sequence[Load], seconds: float) -> tuple[int, int]:
    """Wait so long; answers how many answers came whole meanwhile and how many were refused."""
    whole, refused = _counts(loads)
    await asyncio.sleep(seconds)
    after = _counts(loads)
    return after[0] - whole, after[1] - refused


def _counts(loads: Sequence[Load]) -> tuple[int, int]:
    return sum(len(load.whole) for load in loads), sum(len(load.refused) for load in loads)
