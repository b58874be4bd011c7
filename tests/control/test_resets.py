"""Passwords that are set anew: what ends with the old one, and what comes of two changes at the same moment."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from ipaddress import ip_address
from typing import Any

import asyncpg
import pytest

from meterproxy.control.sign_in import RESET_SECONDS, allow_reset
from meterproxy.errors import Case
from tests.control.asking import PASSWORD, Asking, Heard, Person
from tests.ledger.bank import pool_of

ADDRESSES = [ip_address("2001:db8::1"), ip_address("2001:db8::ffff:2")]
NEW, OTHER = "another long password", "a third long password"
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@pytest.fixture
async def asking(database: str) -> AsyncIterator[Asking]:
    async with pool_of(database) as pool:
        yield Asking(pool)


async def reset(asking: Asking, secret: str, password: str = NEW) -> Heard:
    return await asking("POST", "/api/auth/reset", {"reset_token": secret, "new_password": password})


async def signed_in(asking: Asking, person: Person, password: str) -> Heard:
    return await asking("POST", "/api/auth/login", {"email": person.email, "password": password})


async def change(asking: Asking, person: Person, password: str = OTHER) -> Heard:
    changed = {"old_password": PASSWORD, "new_password": password}
    return await asking("POST", "/api/auth/password", changed, token=person.token)


async def until_waiting(asking: Asking, count: int) -> None:
    """Wait until so many wait for what somebody else has locked."""
    async with asyncio.timeout(30):
        while await asking.pool.fetchval(WAITING) < count:
            await asyncio.sleep(0)


async def together(asking: Asking, person: Person, *tries: Awaitable[Any]) -> list[Any]:
    """What comes of some tries that reach somebody's row at the same moment."""
    async with asking.pool.acquire() as holding:
        transaction = holding.transaction()
        await transaction.start()
        await holding.execute("SELECT FROM users WHERE id = $1 FOR UPDATE", person.id)
        tasks = [asyncio.ensure_future(one) for one in tries]
        await until_waiting(asking, len(tasks))
        await transaction.rollback()
        return await asyncio.gather(*tasks)


async def test_an_old_link_sets_no_password_after_a_new_one(asking: Asking) -> None:
    """However the new one came: by a change, by another link."""
    for number, how in enumerate(("change", "reset")):
        person = await asking.person(f"person{number}")
        old, other = [await allow_reset(asking.people, person.id) for _ in range(2)]
        heard = await (change(asking, person) if how == "change" else reset(asking, other, OTHER))
        assert heard.status == 204
        assert (await reset(asking, old)).case is Case.NOT_SIGNED_IN, how
        assert (await signed_in(asking, person, OTHER)).status == 200


async def test_an_old_link_is_nothing_once_its_user_was_suspended(asking: Asking) -> None:
    """Nor when he may sign in again: he is given a new one then."""
    person = await asking.person("ann")
    old = await allow_reset(asking.people, person.id)
    await asking.people.suspend(person.id, suspended=True)
    assert (await reset(asking, old)).case is Case.NOT_SIGNED_IN
    await asking.people.suspend(person.id, suspended=False)
    assert (await reset(asking, old)).case is Case.NOT_SIGNED_IN
    assert (await reset(asking, await allow_reset(asking.people, person.id))).status == 204


async def test_of_two_links_that_are_used_at_once_one_sets_the_password(asking: Asking) -> None:
    """The other has ended; neither waits for the other in turn."""
    person = await asking.person("ann")
    links = [await allow_reset(asking.people, person.id) for _ in range(2)]
    tries = [reset(asking, link, password) for link, password in zip(links, (NEW, OTHER), strict=True)]
    first, second = await together(asking, person, *tries)
    assert sorted([first.status, second.status]) == [204, 401]
    assert (await signed_in(asking, person, NEW if first.status == 204 else OTHER)).status == 200


async def test_one_link_sets_one_password(asking: Asking) -> None:
    """Also where it is used twice at the same moment."""
    person = await asking.person("ann")
    link = await allow_reset(asking.people, person.id)
    heard = await together(asking, person, reset(asking, link), reset(asking, link, OTHER))
    assert sorted(one.status for one in heard) == [204, 401]


async def test_who_knew_the_old_password_does_not_undo_a_reset(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever was in, and changes it in the moment in which its owner sets a new one, has nothing of it."""
    person = await asking.person("ann")
    link, hash_ = await allow_reset(asking.people, person.id), asking.passwords.hash

    async def meanwhile(password: str) -> str:
        monkeypatch.setattr(asking.passwords, "hash", hash_)
        assert (await reset(asking, link)).status == 204
        return await hash_(password)

    monkeypatch.setattr(asking.passwords, "hash", meanwhile)
    assert (await change(asking, person)).case is Case.WRONG_PASSWORD
    assert (await signed_in(asking, person, OTHER)).case is Case.WRONG_PASSWORD
    assert (await signed_in(asking, person, NEW)).status == 200


async def test_no_link_is_mailed_to_whom_a_password_was_taken_from(asking: Asking) -> None:
    """Not even in the moment in which that is done."""
    person = await asking.person("ann")
    async with asking.pool.acquire() as taking:
        transaction = taking.transaction()
        await transaction.start()
        await taking.execute("UPDATE users SET password_hash = NULL WHERE id = $1", person.id)
        mailing = asyncio.ensure_future(asking.people.add_mailed_reset(person.email, bytes(32), RESET_SECONDS, 3))
        await until_waiting(asking, 1)
        await transaction.commit()
    assert await mailing is None


async def test_a_secret_that_never_was_one_is_slowed(asking: Asking) -> None:
    """As all that is tried from one place."""
    await asking.person("ann")
    await asking("POST", "/api/auth/login", {"email": "ann@example.com", "password": "a wrong one"})
    await asking.pool.execute("UPDATE failed_logins SET failures = 60")
    assert (await reset(asking, "never")).case is Case.NOT_SIGNED_IN
    assert (await reset(asking, "never")).case is Case.SIGN_IN_SLOWED


async def test_attempts_are_counted_by_the_network(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has a network of addresses to himself tries no more than who has one."""
    for number in range(2):
        monkeypatch.setattr("meterproxy.control.api.origin", lambda *_, number=number: ADDRESSES[number])
        await asking("POST", "/api/auth/login", {"email": f"x{number}@example.com", "password": "a wrong one"})
        await asking.pool.execute("UPDATE failed_logins SET failures = 60 WHERE failures > 0")
    assert await asking.pool.fetchval("SELECT count(*) FROM failed_logins") == 3, "two people, one network"
    heard = await asking("POST", "/api/auth/login", {"email": "x2@example.com", "password": "a wrong one"})
    assert heard.case is Case.SIGN_IN_SLOWED


async def collations(pool: asyncpg.Pool) -> list[str]:
    """Those of this PostgreSQL that find a k in the Kelvin sign, or an i in a dotted capital one."""
    names = await pool.fetch(
        "SELECT DISTINCT quote_ident(collname) AS name FROM pg_collation WHERE collencoding IN (-1, 6)"
        " AND collname IN ('pg_c_utf8', 'und-x-icu', 'en-x-icu', 'C.utf8', 'C.UTF-8', 'en_US.utf8')"
    )
    return [
        row["name"] for row in names if await pool.fetchval(f"SELECT lower($1 COLLATE {row['name']}) = 'k'", "\u212a")
    ]


async def test_an_address_that_only_looks_the_same_is_another(asking: Asking) -> None:
    """Whatever the database's locale folds: who owns the one must not be let in as the other, or guess anew by it."""
    told = await collations(asking.pool)
    assert told, "else this proves nothing"
    for collation in told:
        same = f"SELECT is_address($1 COLLATE {collation}, $2 COLLATE {collation})"
        assert await asking.pool.fetchval(same, "Ann@Example.com", "aNN@eXAMPLE.COM")
        for look_alike in ("ann@\u212aelvin.example", "ann@kelv\u0130n.example", "ann@KELVIN.example\u0307"):
            assert not await asking.pool.fetchval(same, "ann@kelvin.example", look_alike), (collation, look_alike)
        assert await asking.pool.fetchval(same, None, "ann@example.com") is None


async def test_people_are_found_by_an_index(asking: Asking) -> None:
    """Whoever asks for an address has no table read from its beginning to its end."""
    async with asking.pool.acquire() as connection:
        await connection.execute("SET enable_seqscan = off")
        plan = await connection.fetch("EXPLAIN SELECT id FROM users WHERE is_address(email, $1)", "ann@example.com")
        await connection.execute("RESET enable_seqscan")
    assert any("user_email_is_unique" in row[0] for row in plan)
