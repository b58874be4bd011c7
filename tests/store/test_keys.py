"""Keys: the secret is shown once, the policy comes back as it went in, an end is an end."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from uuid import UUID, uuid4

import asyncpg
import pytest

from meterproxy.core.key import KeyEntry, KeyPolicy, digest_of
from meterproxy.core.limit import Measure, Scope
from meterproxy.core.limit_terms import LimitTerms
from meterproxy.core.window import WindowKind
from meterproxy.errors import ApiError, Case
from meterproxy.store.accounts import AccountRow, Accounts
from meterproxy.store.found_keys import find_key
from meterproxy.store.instants import to_us
from meterproxy.store.keys import Keys, NewKey
from meterproxy.store.limits import Limits
from meterproxy.store.teams import Teams
from tests.ledger.bank import pool_of


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    async with pool_of(database) as pool:
        yield pool


@pytest.fixture
def keys(pool: asyncpg.Pool) -> Keys:
    return Keys(pool, "test")


@pytest.fixture
async def account(pool: asyncpg.Pool) -> AccountRow:
    return await Accounts(pool, "test").create("Acme")


async def lives(pool: asyncpg.Pool, key: NewKey) -> bool:
    return await found(pool, key.secret) is not None


async def found(pool: asyncpg.Pool, secret: str) -> KeyEntry | None:
    """The key as a worker would keep it."""
    async with pool.acquire() as connection:
        key = await find_key(connection, digest_of(secret.encode()))
    return None if key is None else key.entry(key.new_account())


@pytest.mark.parametrize("policy", [
    KeyPolicy(),
    KeyPolicy(models=(), operations=(), networks=()),
    KeyPolicy(("gpt-*", "o?"), ("chat",), (ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"), ip_network("1.2.3.4/32")), 5),
])  # fmt: skip
async def test_a_policy_comes_back_as_it_went_in(
    pool: asyncpg.Pool, keys: Keys, account: AccountRow, policy: KeyPolicy
) -> None:
    """ "Nothing" and "anything" are told apart; networks stay networks; rotation keeps it."""
    until = datetime.now(UTC) + timedelta(hours=1)
    key = await keys.create(account.id, "k", policy=policy, expires_at=until)
    for secret in (key.secret, (await keys.rotate(key.row.id)).secret):
        entry = await found(pool, secret)
        if entry is not None:
            assert (entry.policy, entry.expires_us, entry.account_id) == (policy, to_us(until), account.id)
    assert entry is not None


async def test_a_secret_is_nowhere_in_the_database(pool: asyncpg.Pool, keys: Keys, account: AccountRow) -> None:
    """Only its hash and its first characters."""
    key = await keys.create(account.id, "k")
    row = await pool.fetchrow("SELECT keys::text AS text FROM keys")
    assert key.secret not in row["text"]
    assert key.row.prefix == key.secret[:11]


async def test_rotation_leaves_the_old_secret_its_grace_and_no_more(
    pool: asyncpg.Pool, keys: Keys, account: AccountRow
) -> None:
    """Without grace the old one is dead at once; a grace never prolongs a life."""
    key = await keys.create(account.id, "k")
    second = await keys.rotate(key.row.id, grace_seconds=3600)
    assert await lives(pool, key)
    assert await lives(pool, second)
    third = await keys.rotate(second.row.id)
    assert not await lives(pool, second)
    assert await lives(pool, third)
    soon = datetime.now(UTC) + timedelta(seconds=60)
    short = await keys.create(account.id, "k", expires_at=soon)
    await keys.rotate(short.row.id, grace_seconds=3600)
    assert await pool.fetchval("SELECT expires_at FROM keys WHERE id = $1", short.row.id) == soon


async def test_a_key_that_was_rotated_is_not_revived(pool: asyncpg.Pool, keys: Keys, account: AccountRow) -> None:
    """Its end may come sooner than its grace says, not later; its name may change."""
    old = await keys.create(account.id, "k")
    await keys.rotate(old.row.id, grace_seconds=3600)
    for later in (None, datetime.now(UTC) + timedelta(days=1)):
        with pytest.raises(ApiError) as refused:
            await keys.change(old.row.id, {"expires_at": later})
        assert refused.value.case is Case.CONFLICT
    sooner = datetime.now(UTC) + timedelta(minutes=1)
    changed = await keys.change(old.row.id, {"expires_at": sooner, "name": "old"})
    assert (changed.expires_at, changed.name) == (sooner, "old")


async def test_a_key_is_rotated_once_whatever_the_clocks_of_hosts_say(
    pool: asyncpg.Pool, keys: Keys, account: AccountRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A successor made on a host whose clock is behind has the smaller id, and is the successor all the same."""
    old = await keys.create(account.id, "k")
    early = UUID(int=old.row.id.int - (60_000 << 80))
    monkeypatch.setattr("meterproxy.store.keys.new_id", lambda: early)
    new = await keys.rotate(old.row.id, grace_seconds=3600)
    monkeypatch.undo()
    assert new.row.id < old.row.id
    with pytest.raises(ApiError) as refused:
        await keys.rotate(old.row.id)
    assert refused.value.case is Case.CONFLICT
    assert await keys.latest(account.id, None) == new.row.id
    await keys.rotate(new.row.id)


async def test_a_revoked_key_is_dead_and_stays_dead(pool: asyncpg.Pool, keys: Keys, account: AccountRow) -> None:
    """Revoking twice keeps the first instant; a revoked key has no successor; the fleet hears of it."""
    key = await keys.create(account.id, "k")
    before = await pool.fetchval("SELECT version FROM change_counter")
    first = await keys.revoke(key.row.id)
    assert not await lives(pool, key)
    assert (await keys.revoke(key.row.id)).revoked_at == first.revoked_at
    assert (
        await pool.fetchval("SELECT count(*) FROM changes WHERE version > $1 AND subject_id = $2", before, key.row.id)
        == 2
    )
    with pytest.raises(ApiError) as refused:
        await keys.rotate(key.row.id)
    assert refused.value.case is Case.NOT_FOUND


async def test_a_key_belongs_to_a_user_of_its_account(pool: asyncpg.Pool, keys: Keys, account: AccountRow) -> None:
    """Neither strangers nor users of other organizations get one."""
    accounts = Accounts(pool, "test")
    other = await accounts.create("Other")
    stranger = await accounts.create_user(other.id, "Eve")
    for account_id, user_id in ((account.id, stranger.id), (account.id, uuid4()), (uuid4(), None)):
        with pytest.raises(ApiError) as refused:
            await keys.create(account_id, "k", user_id=user_id)
        assert refused.value.case is Case.NOT_FOUND
    with pytest.raises(ApiError):
        await keys.revoke(uuid4())
    made = sorted([(await keys.create(account.id, str(number))).row.id for number in range(3)])
    assert [row.id for row in await keys.list(account.id, limit=2)] == made[:2]
    assert [row.id for row in await keys.list(account.id, after=made[1])] == made[2:]


async def test_what_a_key_may_do_can_change(pool: asyncpg.Pool, keys: Keys, account: AccountRow) -> None:
    """What is named changes, what is not stays; workers are told."""
    team = await Teams(pool, "test").create(account.id, "research")
    key = await keys.create(account.id, "k", policy=KeyPolicy(("gpt-*",), ("chat",), (ip_network("10.0.0.0/8"),), 5))
    changed = await keys.change(key.row.id, {"models": None, "name": "new", "team_id": team.id})
    assert (changed.name, changed.models, changed.operations, changed.team_id) == ("new", None, ["chat"], team.id)
    entry = await found(pool, key.secret)
    assert entry is not None
    assert entry.policy == KeyPolicy(None, ("chat",), (ip_network("10.0.0.0/8"),), 5)
    assert entry.team_id == team.id
    changes = await pool.fetch("SELECT subject_id FROM changes WHERE kind = 'key'")
    assert [row["subject_id"] for row in changes] == [key.row.id] * 2
    await keys.change(key.row.id, {"expires_at": datetime.now(UTC) - timedelta(seconds=1)})
    assert not await lives(pool, key)
    with pytest.raises(ApiError):
        await keys.change(uuid4(), {"name": "x"})
    await keys.revoke(key.row.id)
    with pytest.raises(ApiError):
        await keys.change(key.row.id, {"expires_at": None})


async def test_a_rotated_key_goes_on_under_the_same_limits(pool: asyncpg.Pool, keys: Keys, account: AccountRow) -> None:
    """A new secret is no new budget: the chain's first key is whose limits count, for each of the chain."""
    team = await Teams(pool, "test").create(account.id, "research")
    first = await keys.create(account.id, "k", team_id=team.id)
    second = await keys.rotate(first.row.id, grace_seconds=60)
    third = await keys.rotate(second.row.id, grace_seconds=60)
    entries = [await found(pool, key.secret) for key in (first, second, third)]
    assert [entry.origin_id for entry in entries if entry] == [None, first.row.id, first.row.id]
    assert {entry.team_id for entry in entries if entry} == {team.id}
    assert third.row.origin_id == first.row.id
    made = await Limits(pool, "test").create(
        Scope.KEY, third.row.id, LimitTerms(measure=Measure.REQUESTS, window=WindowKind.DAY, cap=5)
    )
    assert made.scope_id == first.row.id


async def test_equal_policies_are_one_object(pool: asyncpg.Pool, keys: Keys, account: AccountRow) -> None:
    """A worker keeps a hundred thousand keys."""
    policies = [
        entry.policy
        for name in "ab"
        if (entry := await found(pool, (await keys.create(account.id, name, policy=KeyPolicy(("o?",)))).secret))
    ]
    assert policies[0] is policies[1]


async def test_live_keys_have_a_stated_maximum(
    pool: asyncpg.Pool, keys: Keys, account: AccountRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a person and of an organization, also for many at once; what is revoked or over makes room."""
    monkeypatch.setattr("meterproxy.store.keys.MOST_OF_USER", 2)
    monkeypatch.setattr("meterproxy.store.keys.MOST_OF_ACCOUNT", 4)
    ann = await Accounts(pool).create_user(account.id, "ann")
    wishes = [keys.create(account.id, f"k{number}", user_id=ann.id) for number in range(5)]
    done = await asyncio.gather(*wishes, return_exceptions=True)
    made = [one for one in done if isinstance(one, NewKey)]
    refused = [one for one in done if isinstance(one, ApiError)]
    assert (len(made), {one.case for one in refused}) == (2, {Case.CONFLICT})
    assert refused[0].message == "A user has 2 live keys at most: revoke some first."
    with pytest.raises(ApiError) as no_room:
        await keys.rotate(made[0].row.id, grace_seconds=60)
    assert no_room.value.case is Case.CONFLICT
    rotated = await keys.rotate(made[0].row.id)
    await keys.revoke(rotated.row.id)
    assert await keys.create(account.id, "in its place", user_id=ann.id)
    services = [await keys.create(account.id, "a service's") for _ in range(2)]
    with pytest.raises(ApiError) as no_room:
        await keys.create(account.id, "one too many")
    assert no_room.value.message == "An organization has 4 live keys at most: revoke some first."
    await keys.revoke(services[0].row.id)
    assert await keys.create(account.id, "a service's")
    other = await Accounts(pool).create("Other")
    assert await keys.create(other.id, "another's")


@pytest.mark.parametrize("round_", range(5))
async def test_keys_that_are_rotated_at_once_share_the_room_there_is(
    pool: asyncpg.Pool, keys: Keys, account: AccountRow, monkeypatch: pytest.MonkeyPatch, round_: int
) -> None:
    """Each rotation with a grace needs room for one more key, and so does a key that is made meanwhile."""
    monkeypatch.setattr("meterproxy.store.keys.MOST_OF_USER", 5)
    ann = await Accounts(pool).create_user(account.id, f"ann {round_}")
    made = [await keys.create(account.id, f"k{number}", user_id=ann.id) for number in range(4)]
    wishes = [keys.rotate(key.row.id, grace_seconds=60) for key in made]
    done = await asyncio.gather(*wishes, keys.create(account.id, "new", user_id=ann.id), return_exceptions=True)
    assert [type(one) for one in done].count(NewKey) == 1
    assert {one.case for one in done if isinstance(one, ApiError)} == {Case.CONFLICT}


async def test_a_key_that_comes_to_life_again_needs_room(
    pool: asyncpg.Pool, keys: Keys, account: AccountRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is over makes room for others, and does not come back beside them; one that lives goes on longer at will."""
    monkeypatch.setattr("meterproxy.store.keys.MOST_OF_USER", 1)
    ann = await Accounts(pool).create_user(account.id, "ann")
    over = await keys.create(account.id, "over", user_id=ann.id)
    await pool.execute("UPDATE keys SET expires_at = now() - interval '1 hour' WHERE id = $1", over.row.id)
    other = await keys.create(
        account.id, "in its place", user_id=ann.id, expires_at=datetime.now(UTC) + timedelta(hours=1)
    )
    with pytest.raises(ApiError) as no_room:
        await keys.change(over.row.id, {"expires_at": None})
    assert no_room.value.case is Case.CONFLICT
    assert not await lives(pool, over)
    assert (await keys.change(other.row.id, {"expires_at": None})).expires_at is None
    await keys.revoke(other.row.id)
    await keys.change(over.row.id, {"expires_at": None})
    assert await lives(pool, over)
