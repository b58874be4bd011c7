"""Limits in PostgreSQL: whose they are, what they begin with, how they change, and how far they have been used."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from meterproxy.core.limit import Measure, Scope
from meterproxy.core.limit_terms import LimitTerms
from meterproxy.core.window import WindowKind
from meterproxy.errors import ApiError, Case
from meterproxy.store.accounts import AccountRow, Accounts
from meterproxy.store.fleet import Fleet
from meterproxy.store.ids import new_id
from meterproxy.store.keys import Keys, NewKey
from meterproxy.store.limits import LimitRow, Limits, read_accounts
from meterproxy.store.teams import TeamRow, Teams
from tests.ledger.bank import pool_of


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    async with pool_of(database) as pool:
        yield pool


@pytest.fixture
def limits(pool: asyncpg.Pool) -> Limits:
    return Limits(pool, "test")


@pytest.fixture
async def account(pool: asyncpg.Pool) -> AccountRow:
    return await Accounts(pool, "test").create("Acme")


def terms(measure: Measure = Measure.AMOUNT, window: WindowKind = WindowKind.MONTH, **parts: Any) -> LimitTerms:
    return LimitTerms(measure=measure, window=window, **{"cap": 1000, **parts})


async def book(
    pool: asyncpg.Pool,
    key: NewKey,
    amount: int,
    *,
    at: datetime | None = None,
    model: str = "gpt-5",
    operation: str = "chat",
) -> None:
    """What settle would book of one exchange: its row, and what rollups say of it."""
    at = at or datetime.now(UTC)
    row = key.row
    await pool.execute(
        "INSERT INTO usage_events (account_id, occurred_at, id, user_id, key_id, operation, provider, model, is_stream,"
        " ending, outcome, status, usage_source, input_tokens, cache_read_tokens, cache_write_tokens, output_tokens,"
        " reasoning_tokens, price_id, markup_ppm, bound_input_tokens, bound_output_tokens, hold_nanos, cost_nanos,"
        " amount_nanos, overrun_nanos, latency_us, journal_id, journal_position) VALUES ($1, $2, $3, $4, $5, $6, 'p', $7,"
        " false, 'captured', 'completed', 200, 'provider', 10, 0, 0, 5, 0, $3, 0, 0, 0, 0, 0, $8, 0, 0, $3, 0)",
        row.account_id, at, new_id(), row.user_id, row.id, operation, model, amount,
    )  # fmt: skip
    for table, column in (("usage_by_hour", "hour"), ("usage_by_day", "day")):
        bucket = "date_trunc('hour', $2::timestamptz, 'UTC')" if column == "hour" else "($2 AT TIME ZONE 'UTC')::date"
        await pool.execute(
            f"INSERT INTO {table} AS r VALUES ($1, {bucket}, $3, $4, 'p', $5, $6, 1, 0, 10, 0, 5, 0, $7)"
            f" ON CONFLICT (account_id, {column}, key_id, user_id, provider, model, operation) DO UPDATE SET"
            " requests = r.requests + 1, input_tokens = r.input_tokens + 10, output_tokens = r.output_tokens + 5,"
            " amount_nanos = r.amount_nanos + excluded.amount_nanos",
            row.account_id, at, row.user_id, row.id, model, operation, amount,
        )  # fmt: skip


async def used(limits: Limits, made: LimitRow) -> int:
    return (await limits.status(made.id)).used


async def test_a_limit_comes_back_as_it_was_made(pool: asyncpg.Pool, limits: Limits, account: AccountRow) -> None:
    """All of it, and workers read the same."""
    given = terms(
        Measure.TOKENS, WindowKind.DAY, cap=7, time_zone="Asia/Tokyo", hard=False, grace=3, operation="chat",
        model_pattern="gpt-*", name="day of tokens", marks=(50, 100),
    )  # fmt: skip
    made = await limits.create(Scope.ACCOUNT, account.id, given)
    assert (await limits.list(account.id), await limits.read(made.id)) == ([made], made)
    assert (made.cap, made.grace, made.marks, made.enforcement, made.name) == (7, 3, (50, 100), "soft", "day of tokens")
    async with pool.acquire() as connection:
        states = await read_accounts(connection, (account.id, uuid4()))
    assert states == {account.id: ([made.limit], False)}
    assert made.limit.applies("chat", "gpt-5")
    assert not made.limit.applies("embedding", "gpt-5")


async def test_a_scope_must_exist(pool: asyncpg.Pool, limits: Limits, account: AccountRow) -> None:
    """Its account is the limit's; what does not exist has none."""
    key = await Keys(pool, "test").create(account.id, "k")
    team = await Teams(pool, "test").create(account.id, "research")
    for scope, scope_id in (
        (Scope.ACCOUNT, account.id),
        (Scope.ORGANIZATION, account.organization_id),
        (Scope.TEAM, team.id),
        (Scope.USER, key.row.user_id),
        (Scope.KEY, key.row.id),
    ):
        assert (await limits.create(scope, scope_id, terms())).account_id == account.id
        with pytest.raises(ApiError) as refused:
            await limits.create(scope, uuid4(), terms())
        assert (refused.value.case, refused.value.param) == (Case.NOT_FOUND, "scope_id")


SENSELESS = [
    (terms(cap=-1), "cap"),
    (terms(cap=2**62), "cap"),
    (terms(grace=-1), "grace"),
    (terms(cap=None, grace=1), "grace"),
    (terms(time_zone="Europe/Atlantis"), "time_zone"),
    (terms(time_zone="../../etc/passwd"), "time_zone"),
    (terms(time_zone="Europe"), "time_zone"),
    (terms(Measure.CONCURRENT), "window"),
    (terms(window=WindowKind.NONE), "window"),
    (terms(operation="cooking"), "operation"),
    (terms(model_pattern=""), "model"),
    (terms(marks=(50, 50)), "marks"),
    (terms(marks=(0,)), "marks"),
    (terms(name="a\0b"), "name"),
]


async def test_what_makes_no_sense_is_refused(limits: Limits, account: AccountRow) -> None:
    """With the member at fault named."""
    for senseless, member in SENSELESS:
        with pytest.raises(ApiError) as refused:
            await limits.create(Scope.ACCOUNT, account.id, senseless)
        assert (refused.value.case, refused.value.param) == (Case.MALFORMED, member)


async def test_a_new_limit_counts_what_its_window_has_seen(
    pool: asyncpg.Pool, limits: Limits, account: AccountRow
) -> None:
    """A monthly budget set in the middle of a month counts the month, unless it is told to begin at nothing."""
    key = await Keys(pool, "test").create(account.id, "k")
    await book(pool, key, 100)
    await book(pool, key, 200)
    await book(pool, key, 999, at=datetime.now(UTC) - timedelta(days=40))
    recent = {Measure.AMOUNT: 300, Measure.REQUESTS: 2, Measure.TOKENS: 30}
    ever = {Measure.AMOUNT: 1299, Measure.REQUESTS: 3, Measure.TOKENS: 45}
    for window in (
        WindowKind.MINUTE,
        WindowKind.HOUR,
        WindowKind.DAY,
        WindowKind.WEEK,
        WindowKind.MONTH,
        WindowKind.TOTAL,
    ):
        for measure, count in (ever if window is WindowKind.TOTAL else recent).items():
            made = await limits.create(Scope.ACCOUNT, account.id, terms(measure, window, cap=10_000))
            forgetful = await limits.create(Scope.ACCOUNT, account.id, terms(measure, window, cap=10_000), seed=False)
            status = await limits.status(made.id)
            assert status.used == (0 if window is WindowKind.MINUTE else count)
            assert status.remaining == 10_000 - status.used
            assert await used(limits, forgetful) == 0


async def test_only_what_the_limit_is_about_is_counted(pool: asyncpg.Pool, limits: Limits, account: AccountRow) -> None:
    """Whose requests, which operation, which models."""
    keys, team = Keys(pool, "test"), await Teams(pool, "test").create(account.id, "research")
    user = await Accounts(pool, "test").create_user(account.id, "Ada")
    first = await keys.create(account.id, "first", team_id=team.id)
    second = await keys.create(account.id, "second", user_id=user.id)
    await book(pool, first, 1)
    await book(pool, first, 10, model="o3")
    await book(pool, second, 100, operation="embedding")
    for scope, scope_id, parts, count in (
        (Scope.ACCOUNT, account.id, {}, 111),
        (Scope.ORGANIZATION, account.organization_id, {"operation": "chat"}, 11),
        (Scope.ORGANIZATION, account.organization_id, {"model_pattern": "gpt-*"}, 101),
        (Scope.TEAM, team.id, {}, 11),
        (Scope.USER, user.id, {}, 100),
        (Scope.KEY, first.row.id, {"model_pattern": "o?"}, 10),
    ):
        made = await limits.create(scope, scope_id, terms(**parts))
        assert await used(limits, made) == count


async def test_a_broken_hour_is_counted_exactly(pool: asyncpg.Pool, limits: Limits, account: AccountRow) -> None:
    """Where a day begins in the middle of an hour of UTC, what came before is not counted."""
    key = await Keys(pool, "test").create(account.id, "k")
    made = await limits.create(Scope.ACCOUNT, account.id, terms(window=WindowKind.DAY, time_zone="Asia/Kolkata"))
    start = (await limits.status(made.id)).window_start
    assert start is not None
    assert start.minute == 30
    await book(pool, key, 100, at=start - timedelta(minutes=1))
    await book(pool, key, 20, at=start)
    await book(pool, key, 3)
    seeded = await limits.create(Scope.ACCOUNT, account.id, terms(window=WindowKind.DAY, time_zone="Asia/Kolkata"))
    assert await used(limits, seeded) == 23


async def test_a_changed_cap_moves_the_current_window(pool: asyncpg.Pool, limits: Limits, account: AccountRow) -> None:
    """Lower than what was used, it only stops lending; past windows keep theirs."""
    key = await Keys(pool, "test").create(account.id, "k")
    await book(pool, key, 300)
    made = await limits.create(Scope.ACCOUNT, account.id, terms(grace=5))
    await pool.execute(
        "INSERT INTO limit_windows (account_id, limit_id, window_start, cap) VALUES ($1, $2, '2001-01-01', 7)",
        account.id, made.id,
    )  # fmt: skip
    changed = await limits.change(made.id, {"cap": 200, "marks": (10,), "name": "less"})
    assert (changed.cap, changed.grace, changed.marks, changed.name) == (200, 5, (10,), "less")
    caps = [
        row["cap"] for row in await pool.fetch("SELECT cap FROM limit_windows WHERE limit_id = $1 ORDER BY 1", made.id)
    ]
    assert caps == [7, 205]
    assert (await limits.status(made.id)).remaining == -100
    assert (await limits.change(made.id, {"cap": None, "grace": 0})).cap is None
    assert (await limits.status(made.id)).remaining is None
    with pytest.raises(ApiError):
        await limits.change(made.id, {"grace": 1})
    with pytest.raises(ApiError):
        await limits.change(uuid4(), {"cap": 1})


async def test_used_and_held_are_told_apart(pool: asyncpg.Pool, limits: Limits, account: AccountRow) -> None:
    """Used is what was booked; held is what running requests may still cost."""
    made = await limits.create(Scope.ACCOUNT, account.id, terms(window=WindowKind.TOTAL))
    session = uuid4()
    await pool.execute(
        "INSERT INTO worker_sessions (id, journal_id, host, slot, expires_at) VALUES ($1, $1, 'h', 0, now())", session
    )
    await pool.execute(
        "INSERT INTO limit_windows (account_id, limit_id, window_start, cap, drawn, overrun, late, counted)"
        " VALUES ($1, $2, 'epoch', 1000, 507, 3, 2, 2)", account.id, made.id,
    )  # fmt: skip
    await pool.execute(
        "INSERT INTO leases VALUES ($1, $2, 'epoch', $3, 500, 100, 0, 40, $3, 0)", account.id, made.id, session
    )
    status = await limits.status(made.id)
    assert (status.used, status.held, status.remaining) == (107, 40, 853)
    assert (status.window_start, status.window_end) == (None, None)


async def test_a_retired_limit_is_out_of_force_and_kept(
    pool: asyncpg.Pool, limits: Limits, account: AccountRow
) -> None:
    """Nothing is deleted; it cannot be changed any more."""
    made = await limits.create(Scope.ACCOUNT, account.id, terms())
    retired = await limits.retire(made.id)
    assert retired.retired_at is not None
    assert await limits.retire(made.id) == retired
    noted = "SELECT count(*) FROM audit_log WHERE subject_id = $1 AND action = 'limit.retire'"
    assert await pool.fetchval(noted, made.id) == 1
    assert await limits.list(account.id) == []
    assert await limits.list(account.id, retired=True) == [retired]
    async with pool.acquire() as connection:
        assert (await read_accounts(connection, (account.id,)))[account.id].limits == []
    with pytest.raises(ApiError) as refused:
        await limits.change(made.id, {"cap": 1})
    assert refused.value.case is Case.CONFLICT


async def test_every_change_is_told_and_audited(pool: asyncpg.Pool, limits: Limits, account: AccountRow) -> None:
    """Workers hear whose limits they are to read again; people see who did what."""
    made = await limits.create(Scope.ACCOUNT, account.id, terms())
    await limits.change(made.id, {"cap": 5})
    await limits.retire(made.id)
    told = await pool.fetch("SELECT kind, subject_id, account_id FROM changes ORDER BY version")
    assert [tuple(row) for row in told] == [("limit", made.id, account.id)] * 3
    noted = await pool.fetch("SELECT actor, action FROM audit_log WHERE subject_id = $1 ORDER BY id", made.id)
    assert [tuple(row) for row in noted] == [("test", f"limit.{what}") for what in ("create", "change", "retire")]


async def test_an_account_has_so_many_limits_at_most(
    limits: Limits, account: AccountRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers keep them all in memory."""
    monkeypatch.setattr("meterproxy.store.limits.MOST_LIMITS", 1)
    made = await limits.create(Scope.ACCOUNT, account.id, terms())
    with pytest.raises(ApiError):
        await limits.create(Scope.ACCOUNT, account.id, terms())
    await limits.retire(made.id)
    await limits.create(Scope.ACCOUNT, account.id, terms())


async def test_limits_of_keys_that_are_gone_make_room(
    pool: asyncpg.Pool, account: AccountRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever makes a key a day may do so for ever; the limits of a chain go when the last of its keys was revoked."""
    monkeypatch.setattr("meterproxy.store.limits.MOST_LIMITS", 1)
    keys = Keys(pool, "test", (terms(name="each"),))
    first = await keys.create(account.id, "one")
    successor = await keys.rotate(first.row.id, 60)
    await keys.revoke(first.row.id)
    with pytest.raises(ApiError):
        await keys.create(account.id, "two")
    async with pool.acquire() as connection:
        assert len((await read_accounts(connection, (account.id,)))[account.id].limits) == 1
        await keys.revoke(successor.row.id)
        assert (await read_accounts(connection, (account.id,)))[account.id].limits == []
    await keys.create(account.id, "two")


@pytest.mark.parametrize("host", ["elsewhere", "a\0b"])
async def test_a_host_that_nobody_knows_is_not_drained(pool: asyncpg.Pool, host: str) -> None:
    """Nor one that nobody can have: it is not there, and no fault of ours."""
    with pytest.raises(ApiError) as unknown:
        await Fleet(pool, "test").drain(host)
    assert unknown.value.case is Case.NOT_FOUND


async def test_teams(pool: asyncpg.Pool, account: AccountRow) -> None:
    """Names are unique within an organization; a key's team must be of its own."""
    teams, keys = Teams(pool, "test"), Keys(pool, "test")
    other = await Accounts(pool, "test").create("Other")
    mine, theirs = await teams.create(account.id, "research"), await teams.create(other.id, "research")
    assert await teams.list(account.id) == [mine]
    assert [team.id for team in await teams.list()] == [mine.id, theirs.id]
    with pytest.raises(ApiError) as taken:
        await teams.create(account.id, "research")
    assert taken.value.case is Case.CONFLICT
    with pytest.raises(ApiError):
        await teams.create(uuid4(), "research")
    with pytest.raises(ApiError) as foreign:
        await keys.create(account.id, "k", team_id=theirs.id)
    assert foreign.value.param == "team_id"
    assert isinstance(mine, TeamRow)
    assert isinstance(mine.id, UUID)


async def test_what_is_made_for_a_team_while_it_is_removed_ends_with_it_or_is_not_made(
    pool: asyncpg.Pool, account: AccountRow
) -> None:
    """No limit is left in force for a team that nobody can see, and no key is put into it."""
    teams, keys, limits = Teams(pool, "test"), Keys(pool, "test"), Limits(pool, "test")
    team = await teams.create(account.id, "research")
    async with pool.acquire() as connection:
        removing = connection.transaction()
        await removing.start()
        await connection.execute("SELECT FROM teams WHERE id = $1 FOR UPDATE", team.id)
        making = [
            asyncio.create_task(limits.create(Scope.TEAM, team.id, terms())),
            asyncio.create_task(keys.create(account.id, "k", team_id=team.id)),
        ]
        while await waiting(pool) < len(making):
            await asyncio.sleep(0)
        await connection.execute("UPDATE teams SET removed_at = now() WHERE id = $1", team.id)
        await removing.commit()
    done = await asyncio.gather(*making, return_exceptions=True)
    assert [one.case for one in done if isinstance(one, ApiError)] == [Case.NOT_FOUND] * 2
    assert await limits.list(account.id) == []


async def waiting(pool: asyncpg.Pool) -> int:
    """How many wait for a lock that somebody else has."""
    count: int = await pool.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    return count


async def test_new_accounts_and_keys_get_what_the_operator_wants(pool: asyncpg.Pool) -> None:
    """Made with them, in one transaction; many keys of one account at once do not stand in each other's way."""
    account = await Accounts(pool, "test", (terms(name="monthly"),)).create("Acme")
    keys = Keys(pool, "test", (terms(Measure.REQUESTS, WindowKind.MINUTE, name="burst"), terms(name="each")))
    made = await asyncio.gather(*(keys.create(account.id, str(number)) for number in range(6)))
    limits = Limits(pool, "test")
    assert [(each.name, each.scope) for each in await limits.list(scope_id=account.id)] == [("monthly", "account")]
    for key in made:
        of_key = await limits.list(scope_id=key.row.id)
        assert [(each.name, each.scope) for each in of_key] == [("burst", "key"), ("each", "key")]
    rotated = await keys.rotate(made[0].row.id)
    assert await limits.list(scope_id=rotated.row.id) == []
