"""Invention: usage that never was, for demonstrations, tests and measurements; booked as all usage is, so that the
books balance.

Nothing was lent for it, so what it draws from the account's credit counts as late, as what comes from a lost host does.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID, uuid4

from meterproxy.core.identifier import uuid7
from meterproxy.core.lending import Batch, Settling
from meterproxy.core.path import Draw, Draws
from meterproxy.core.price import Price
from meterproxy.core.record import Ending, EndRecord, Subject
from meterproxy.core.usage import Outcome, Usage, UsageSource
from meterproxy.store.settle import Settlement

BATCH: Final = 500
DAY_US: Final = 86_400_000_000
HOUR_US: Final = 3_600_000_000
_BUSY: Final = (1, 1, 1, 1, 1, 2, 4, 8, 14, 18, 20, 19, 15, 17, 20, 19, 16, 12, 8, 6, 5, 4, 3, 2)
"""How much of a working day's requests come in each of its hours."""
_WEEKEND: Final = 0.3
_TOOLS: Final = (("search",), ("calculator",), ("search", "browser"))
_FAILED: Final = ((Outcome.PROVIDER_ERROR, 500), (Outcome.TIMED_OUT, 504), (Outcome.CLIENT_LEFT, 200))


@dataclass(frozen=True, slots=True)
class Spender:
    """A key that spends, with what the books must know of it."""

    account_id: UUID
    credit_limit_id: UUID
    user_id: UUID
    key_id: UUID


def invented(
    spenders: Sequence[Spender], prices: Sequence[Price], first_us: int, last_us: int, rows: int, seed: int = 0
) -> Iterator[EndRecord]:
    """So many exchanges between two instants, in their order: more on weekdays and by day, growing slowly."""
    chance = random.Random(seed)  # noqa: S311  nothing secret
    instants = sorted(_instant(chance, first_us, last_us) for _ in range(rows))
    conversations = [f"conversation-{number}" for number in range(1, max(rows // 12, 2))]
    session_id = UUID(int=chance.getrandbits(128))
    for at_us in instants:
        yield _exchange(chance, chance.choice(spenders), prices, at_us, session_id, conversations)


async def book_invented(settlement: Settlement, records: Sequence[EndRecord], prices: Sequence[Price]) -> int:
    """Book invented exchanges; answers how many. Raises StoreUnavailable."""
    journal_id, booked = uuid4(), 0
    documents: Mapping[UUID, bytes] = {price.id: price.document() for price in prices}
    await settlement.progress(journal_id)
    for start in range(0, len(records), BATCH):
        part = records[start : start + BATCH]
        endings = [Settling(start + place, record) for place, record in enumerate(part, start=1)]
        end = start + len(part)
        booked += await settlement.book(Batch(journal_id, start, end, end, endings, documents, None))
    return booked


def _instant(chance: random.Random, first_us: int, last_us: int) -> int:
    while True:
        at = chance.randrange(first_us, last_us)
        weekday = (at // DAY_US + 3) % 7  # the first of January 1970 was a Thursday
        busy = _BUSY[at // HOUR_US % 24] / max(_BUSY) * (_WEEKEND if weekday >= 5 else 1.0)
        grown = 0.6 + 0.4 * (at - first_us) / max(last_us - first_us, 1)
        if chance.random() < busy * grown:
            return at


def _exchange(
    chance: random.Random,
    spender: Spender,
    prices: Sequence[Price],
    at_us: int,
    session_id: UUID,
    conversations: Sequence[str],
) -> EndRecord:
    price = chance.choices(prices, weights=range(len(prices), 0, -1))[0]
    failed = chance.choice(_FAILED) if chance.random() < 0.02 else None
    usage = Usage() if failed else _usage(chance, price)
    amounts = price.amounts(usage, None, 1_000_000)
    embeds = "output" not in price.card_for(None).written_kinds
    latency_us = int(chance.lognormvariate(6.8, 0.7) * 1000)
    subject = Subject(
        uuid7(at_us, chance.randbytes(10)), at_us, spender.account_id, spender.user_id, spender.key_id,
        "embedding" if embeds else "chat", price.provider, price.model, price.id, 1_000_000, amounts.amount_nanos,
        usage.input_tokens, usage.output_tokens, not embeds and chance.random() < 0.7,
        Draws.of([Draw(spender.credit_limit_id, 0, session_id, amounts.amount_nanos)]),
        chance.choice(conversations) if chance.random() < 0.5 else None,
        (("feature", chance.choice(("search", "summaries", "support"))),) if chance.random() < 0.6 else (),
    )  # fmt: skip
    ending = Ending(
        failed[0] if failed else Outcome.COMPLETED,
        failed[1] if failed else 200,
        UsageSource.PROVIDER,
        usage,
        price.model,
        latency_us=latency_us,
        first_byte_us=latency_us // 4,
        tools=chance.choice(_TOOLS) if not embeds and chance.random() < 0.15 else (),
    )
    how = "captured" if amounts.amount_nanos else "released"
    return EndRecord(how, subject, ending, amounts.cost_nanos, amounts.amount_nanos, 0)


def _usage(chance: random.Random, price: Price) -> Usage:
    told = int(chance.lognormvariate(6.5, 1.0))
    if "output" not in price.card_for(None).written_kinds:
        return Usage(input=told)
    cached = told // 2 if chance.random() < 0.3 else 0
    return Usage(input=told - cached, cache_read=cached, output=int(chance.lognormvariate(5.5, 0.8)))
