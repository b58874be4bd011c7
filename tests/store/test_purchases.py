"""Purchases: what was paid is booked once, whoever confirms it how often and whatever dies in between."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest

from meterproxy.core.money import NANOS_PER_USD
from meterproxy.core.purchase import PurchaseState, PurchaseTerms, code_as_written, code_of
from meterproxy.errors import ApiError, Case
from meterproxy.store import purchases as module
from meterproxy.store.accounts import AccountRow, Accounts
from meterproxy.store.audit import audit
from meterproxy.store.purchases import MOST_PENDING, Purchases
from tests.ledger.bank import pool_of

FIVE = 5 * NANOS_PER_USD


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    async with pool_of(database) as pool:
        yield pool


@pytest.fixture
async def accounts(pool: asyncpg.Pool) -> Accounts:
    return Accounts(pool, "test")


@pytest.fixture
async def account(accounts: Accounts) -> AccountRow:
    return await accounts.create("Acme")


@pytest.fixture
def purchases(pool: asyncpg.Pool) -> Purchases:
    return Purchases(pool, PurchaseTerms(), "test")


async def refused(work: object) -> Case:
    with pytest.raises(ApiError) as error:
        await work  # type: ignore[misc]
    return error.value.case


async def test_what_is_confirmed_is_booked_once(
    purchases: Purchases, accounts: Accounts, account: AccountRow, pool: asyncpg.Pool
) -> None:
    """Several operators at once, and the same one later, make one entry; what arrived is what counts."""
    ordered = await purchases.order(account.id, FIVE, "order 7")
    assert (ordered.state, (await accounts.read(account.id)).balance_nanos) == ("pending", 0)
    at_once = await asyncio.gather(*(purchases.confirm(ordered.id, FIVE - 1) for _ in range(6)))
    assert {(one.state, one.booked_nanos, one.entry_no) for one in at_once} == {("confirmed", FIVE - 1, 1)}
    assert await purchases.confirm(ordered.id) == at_once[0]
    assert await refused(purchases.confirm(ordered.id, FIVE)) is Case.CONFLICT
    (entry,) = await accounts.entries(account.id)
    assert (entry.kind, entry.amount_nanos, entry.actor) == ("purchase", FIVE - 1, "test")
    assert entry.description == f"Purchase {ordered.code}: order 7"
    assert await pool.fetchval("SELECT cap FROM limit_windows") == FIVE - 1
    assert [result for result in await audit(pool) if not result.ok] == []


async def test_a_death_between_leaves_it_pending(
    purchases: Purchases, accounts: Accounts, account: AccountRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever fails after the entry was written takes the entry with it; the next one books it."""
    ordered = await purchases.order(account.id, FIVE)

    async def dies(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module.Purchases, "_note", dies)
        with pytest.raises(KeyboardInterrupt):
            await purchases.confirm(ordered.id)
    assert ((await purchases.read(ordered.id)).state, await accounts.entries(account.id)) == ("pending", [])
    await purchases.confirm(ordered.id)
    assert (await accounts.read(account.id)).balance_nanos == FIVE


@pytest.mark.parametrize("first", ["cancel", "decline", "confirm"])
async def test_a_purchase_ends_once(purchases: Purchases, account: AccountRow, pool: asyncpg.Pool, first: str) -> None:
    """The same ending again is the first one; any other is a conflict, and nothing writes over it."""
    ordered = await purchases.order(account.id, FIVE)
    endings = {
        "cancel": lambda: purchases.cancel(account.id, ordered.id),
        "decline": lambda: purchases.decline(ordered.id, "nothing came"),
        "confirm": lambda: purchases.confirm(ordered.id),
    }
    ended = await endings.pop(first)()
    assert ended.ended_at is not None
    for other in endings.values():
        assert await refused(other()) is Case.CONFLICT
    assert await purchases.read(ordered.id) == ended
    for statement in ("UPDATE purchases SET amount_nanos = 1", "DELETE FROM purchases", "TRUNCATE purchases"):
        with pytest.raises(asyncpg.RestrictViolationError):
            await pool.execute(statement)
    told = await pool.fetch("SELECT kind FROM notifications")
    assert [row["kind"] for row in told] == [f"purchase.{ended.state}"][: first != "cancel"]


async def test_cancelling_and_confirming_at_once_is_one_of_both(
    purchases: Purchases, accounts: Accounts, account: AccountRow
) -> None:
    """Whichever comes first; the balance says which."""
    for _ in range(5):
        ordered = await purchases.order(account.id, FIVE)
        before = (await accounts.read(account.id)).balance_nanos
        both = await asyncio.gather(
            purchases.cancel(account.id, ordered.id), purchases.confirm(ordered.id), return_exceptions=True
        )
        ended = await purchases.read(ordered.id)
        assert [isinstance(one, ApiError) for one in both] == [ended.state == "confirmed", ended.state == "cancelled"]
        moved = (await accounts.read(account.id)).balance_nanos - before
        assert moved == (FIVE if ended.state == "confirmed" else 0)


async def test_orders_have_bounds_and_are_made_once(
    purchases: Purchases, account: AccountRow, pool: asyncpg.Pool
) -> None:
    """By their amount, by how many are pending, and by their idempotency key."""
    for amount in (FIVE - 1, 10_000 * NANOS_PER_USD + 1, 0, -FIVE):
        assert await refused(purchases.order(account.id, amount)) is Case.MALFORMED
    assert await refused(purchases.order(uuid4(), FIVE)) is Case.NOT_FOUND
    again = await asyncio.gather(*(purchases.order(account.id, FIVE, "", "k") for _ in range(4)))
    assert len({one.id for one in again}) == 1
    assert await refused(purchases.order(account.id, FIVE + 1, "", "k")) is Case.CONFLICT
    many = await asyncio.gather(
        *(purchases.order(account.id, FIVE) for _ in range(MOST_PENDING + 3)), return_exceptions=True
    )
    assert [isinstance(one, ApiError) for one in many].count(True) == 4
    assert await purchases.pending() == MOST_PENDING
    assert (await purchases.order(account.id, FIVE, "", "k")).id == again[0].id
    for member in (0, -1):
        assert await refused(purchases.confirm(again[0].id, member)) is Case.MALFORMED
    assert await pool.fetchval("SELECT count(*) FROM audit_log WHERE action = 'purchase.order'") == MOST_PENDING


async def test_purchases_are_found_by_what_stands_on_the_transfer(
    purchases: Purchases, accounts: Accounts, account: AccountRow
) -> None:
    """However it was typed; lists are paged, the latest first."""
    other = await accounts.create("Other")
    made = [await purchases.order(which.id, FIVE) for which in (account, other, account)]
    typed = made[1].code.replace("-", " ").replace("0", "o").replace("1", "l").lower()
    assert [row.id for row in await purchases.list(code=typed)] == [made[1].id]
    assert [row.id for row in await purchases.list(account.id)] == [made[2].id, made[0].id]
    assert [row.id for row in await purchases.list(before=made[2].id, limit=1)] == [made[1].id]
    await purchases.decline(made[0].id)
    assert [row.id for row in await purchases.list(state=PurchaseState.DECLINED)] == [made[0].id]
    assert await refused(purchases.cancel(other.id, made[2].id)) is Case.NOT_FOUND


def test_codes_are_made_of_letters_that_nobody_mixes_up() -> None:
    """Each of forty bits counts, and what is typed comes back as it was made."""
    assert code_of(bytes(5)) == "0000-0000"
    assert code_of(b"\xff" * 5) == "ZZZZ-ZZZZ"
    assert code_of((1 << 39 | 1).to_bytes(5)) == "G000-0001"
    assert code_as_written(" gooo ooil") == "G000-0011"
