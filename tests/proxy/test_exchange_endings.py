"""Every way an exchange can end resolves its hold exactly once and books the right amount, outcome and source."""

import orjson
import pytest

from tests.proxy.endings import ENDINGS, Ending, Heard
from tests.proxy.fakes import Row
from tests.proxy.house import CATALOG, House, built


@pytest.mark.parametrize("case", ENDINGS, ids=lambda case: case.name)
async def test_ending(case: Ending) -> None:
    """The client hears what the table says, and the books hold one row that says it too."""
    async with built(
        case.settings,
        first_byte_seconds=case.first_byte_seconds,
        between_bytes_seconds=case.between_bytes_seconds,
        provider_url=case.provider_url,
    ) as house:
        before = house.ledger.balance_nanos
        heard = await case.play(house, case)
        await house.ended()
        check_heard(case, heard)
        assert not house.ledger.open
        [row] = house.ledger.rows
        check_booked(case, row)
        assert house.ledger.balance_nanos == before - row.amount_nanos
        await check_calls(case, house)
        assert len(house.observer.ended) == 1
        assert house.observer.streams == 0
        assert house.exchanges.house.room.taken_bytes == 0
        assert house.exchanges.house.pool.taken_bytes == 0
        assert house.exchanges.house.leavers.count == 0


def check_heard(case: Ending, heard: Heard) -> None:
    assert case.heard in heard.body
    assert case.never not in heard.body
    if case.code is None:
        return
    *_, last = [line for line in heard.body.splitlines() if line]
    assert orjson.loads(last.removeprefix(b"data: "))["error"]["code"] == case.code


def check_booked(case: Ending, row: Row) -> None:
    assert (row.how, row.outcome, row.source) == (case.how, case.outcome, case.source)
    assert row.status == case.status
    if any(case.usage) or case.how == "released":
        assert row.usage == case.usage
    else:
        assert row.usage.input
        assert row.usage.output
    if case.how == "released":
        assert row.amount_nanos == 0
        return
    model = {"/v1/completions": "gpt-3.5-turbo-instruct", "/v1/embeddings": "text-embedding-3-small"}.get(
        case.path, "gpt-4o"
    )
    price = CATALOG.price("openai", model, 1_790_000_000_000_000)
    assert price is not None
    assert row.amount_nanos == price.amounts(row.usage, row.ending.service_tier, 1_000_000).amount_nanos
    assert row.amount_nanos > 0
    assert (row.amount_nanos > row.hold_nanos) is case.overruns


async def check_calls(case: Ending, house: House) -> None:
    assert len(await house.calls()) == case.calls
