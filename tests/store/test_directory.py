"""The directory: bounded, forgetful of strangers, and never older than a change it has heard of."""

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from meterproxy.core.key import digest_of
from meterproxy.core.limit import Measure, Scope
from meterproxy.core.limit_terms import LimitTerms
from meterproxy.core.window import WindowKind
from meterproxy.errors import StoreUnavailable
from meterproxy.store import directory as module
from meterproxy.store.accounts import Accounts
from meterproxy.store.directory import KeyDirectory
from meterproxy.store.keys import Keys, NewKey
from meterproxy.store.limits import Limits
from tests.ledger.bank import pool_of

TERMS = LimitTerms(measure=Measure.REQUESTS, window=WindowKind.DAY, cap=5)


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    async with pool_of(database) as pool:
        yield pool


async def keys_of(pool: asyncpg.Pool, count: int) -> list[NewKey]:
    account = await Accounts(pool, "test").create("Acme")
    return [await Keys(pool, "test").create(account.id, str(number)) for number in range(count)]


def digest(key: NewKey) -> bytes:
    return digest_of(key.secret.encode())


async def test_a_key_is_asked_for_once(pool: asyncpg.Pool) -> None:
    """Memory answers from then on, until it changes."""
    (key,) = await keys_of(pool, 1)
    directory = KeyDirectory(pool)
    assert directory.known(digest(key)) is True
    entry = await directory.find(digest(key))
    assert directory.known(digest(key)) is entry
    await Keys(pool, "test").revoke(key.row.id)
    directory.key_changed(key.row.id)
    assert directory.known(digest(key)) is True
    assert await directory.find(digest(key)) is None
    assert directory.known(digest(key)) is False


async def test_a_stranger_is_remembered_for_a_moment_only(pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of wrong keys does not reach PostgreSQL; a key that was made a second ago works."""
    directory = KeyDirectory(pool)
    assert await directory.find(b"x") is None
    assert directory.known(b"x") is False
    monkeypatch.setattr(module, "UNKNOWN_SECONDS", -1.0)
    assert await directory.find(b"y") is None
    assert directory.known(b"y") is True


async def test_memory_is_bounded(pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of keys and of strangers only so many are kept; the longest unasked go first."""
    monkeypatch.setattr(module, "KEYS_KEPT", 2)
    monkeypatch.setattr(module, "UNKNOWN_KEPT", 2)
    first, second, third = await keys_of(pool, 3)
    directory = KeyDirectory(pool)
    for key in (first, second, first, third):
        await directory.find(digest(key))
    assert directory.known(digest(second)) is True
    assert directory.known(digest(first)) is not True
    assert directory.known(digest(third)) is not True
    for stranger in (b"1", b"2", b"1", b"3"):
        await directory.find(stranger)
    assert [directory.known(stranger) for stranger in (b"1", b"2", b"3")] == [False, True, False]


@pytest.mark.parametrize("all_of_it", [False, True])
async def test_an_answer_older_than_a_change_is_not_kept(
    pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch, all_of_it: bool
) -> None:
    """The change arrives while the look-up is under way: its answer may be from before."""
    (key,) = await keys_of(pool, 1)
    directory = KeyDirectory(pool)
    answered, asked, look_up = asyncio.Event(), asyncio.Event(), module.find_key

    async def slow(*arguments: object) -> object:
        answer = await look_up(*arguments)  # type: ignore[arg-type]
        asked.set()
        await answered.wait()
        return answer

    monkeypatch.setattr(module, "find_key", slow)
    finding = asyncio.create_task(directory.find(digest(key)))
    await asked.wait()
    if all_of_it:
        directory.forget_all()
    else:
        directory.key_changed(key.row.id)
    answered.set()
    assert await finding is not None
    assert directory.known(digest(key)) is True


async def test_a_flood_of_wrong_keys_is_looked_up_a_few_at_a_time(
    pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One key is looked up once for all who want it; beyond a number of them the answer is "later", never "no"."""
    monkeypatch.setattr(module, "MOST_WANTED", 10)
    directory = KeyDirectory(pool)
    open_now, most, asked, go_on = 0, 0, 0, asyncio.Event()

    async def counted(_pool: asyncpg.Pool, _digest: bytes) -> None:
        nonlocal open_now, most, asked
        open_now, asked = open_now + 1, asked + 1
        most = max(most, open_now)
        await go_on.wait()
        open_now -= 1

    monkeypatch.setattr(module, "find_key", counted)
    finding = [asyncio.create_task(directory.find(b"%d" % (number % 10))) for number in range(40)]
    while open_now < module.AT_ONCE:
        await asyncio.sleep(0)
    with pytest.raises(StoreUnavailable):
        await directory.find(b"one more")
    go_on.set()
    assert await asyncio.gather(*finding) == [None] * 40
    assert (most, asked) == (module.AT_ONCE, 10)
    await directory.find(b"one more")
    assert directory._wanted == {}


async def test_who_comes_after_a_change_does_not_wait_for_an_older_answer(
    pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key is revoked while it is looked up: whoever asks from then on is refused."""
    (key,) = await keys_of(pool, 1)
    directory = KeyDirectory(pool)
    answered, look_up, asked = asyncio.Event(), module.find_key, asyncio.Event()

    async def slow(*arguments: object) -> object:
        answer = await look_up(*arguments)  # type: ignore[arg-type]
        asked.set()
        await answered.wait()
        return answer

    monkeypatch.setattr(module, "find_key", slow)
    early = asyncio.create_task(directory.find(digest(key)))
    await asked.wait()
    await Keys(pool, "test").revoke(key.row.id)
    directory.key_changed(key.row.id)
    late = asyncio.create_task(directory.find(digest(key)))
    answered.set()
    assert await early is not None
    assert await late is None
    assert directory.known(digest(key)) is False


async def test_keys_of_an_account_share_its_entry(pool: asyncpg.Pool) -> None:
    """What changes about an account reaches all its keys at once, read once for all of them."""
    first, second = await keys_of(pool, 2)
    limits = Limits(pool, "test")
    made = await limits.create(Scope.ACCOUNT, first.row.account_id, TERMS)
    directory = KeyDirectory(pool)
    one, other = await directory.find(digest(first)), await directory.find(digest(second))
    assert one is not None
    assert other is not None
    assert one.account is other.account
    assert one.account.limits == (made.limit,)
    changed = await limits.change(made.id, {"cap": 7})
    for _ in range(1000):
        directory.account_changed(first.row.account_id)
    await directory.refresh()
    assert other.account.limits == (changed.limit,)
    assert one.account.version == 2
    await limits.retire(made.id)
    directory.forget_all()
    await directory.refresh()
    assert one.account.limits == ()


async def test_a_change_during_a_look_up_is_not_missed(pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits were read before the change and kept after it: they are read again."""
    (key,) = await keys_of(pool, 1)
    limits, directory, read = Limits(pool, "test"), KeyDirectory(pool), module.read_accounts

    async def overtaken(*arguments: Any) -> Any:
        states = await read(*arguments)
        monkeypatch.setattr(module, "read_accounts", read)
        await limits.create(Scope.ACCOUNT, key.row.account_id, TERMS)
        directory.account_changed(key.row.account_id)
        return states

    monkeypatch.setattr(module, "read_accounts", overtaken)
    entry = await directory.find(digest(key))
    assert entry is not None
    assert entry.account.limits == ()
    await directory.refresh()
    assert len(entry.account.limits) == 1


async def test_old_limits_stay_in_force_while_postgresql_is_away(
    pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is forgotten for want of an answer, and the change is heard as soon as there is one."""
    (key,) = await keys_of(pool, 1)
    limits, directory, read = Limits(pool, "test"), KeyDirectory(pool), module.read_accounts
    made = await limits.create(Scope.ACCOUNT, key.row.account_id, TERMS)
    entry = await directory.find(digest(key))
    assert entry is not None

    async def away(*_arguments: Any) -> Any:
        raise StoreUnavailable("gone")

    monkeypatch.setattr(module, "read_accounts", away)
    await limits.retire(made.id)
    directory.account_changed(key.row.account_id)
    with pytest.raises(StoreUnavailable):
        await directory.refresh()
    assert entry.account.limits == (made.limit,)
    monkeypatch.setattr(module, "read_accounts", read)
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.0)
    fresh = asyncio.create_task(directory.keep_fresh())
    while entry.account.limits:
        await asyncio.sleep(0)
    fresh.cancel()


async def test_an_account_nobody_has_is_not_kept(pool: asyncpg.Pool) -> None:
    """Its entry goes with the last of its keys."""
    (key,) = await keys_of(pool, 1)
    directory = KeyDirectory(pool)
    await directory.find(digest(key))
    directory.key_changed(key.row.id)
    gc.collect()
    directory.account_changed(key.row.account_id)
    assert not directory._stale
