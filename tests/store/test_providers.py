"""Providers in the database: their secrets are whole or nothing, and nobody reads them."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import uuid4

import asyncpg
import pytest

from meterproxy.core.provider import ProviderTerms
from meterproxy.core.seal import Seal
from meterproxy.errors import ApiError, Case
from meterproxy.store.providers import MOST_HEADERS, PURPOSE, OpenedProvider, ProviderRows
from tests.ledger.bank import pool_of

OLD, NEW = Seal(bytes(32), PURPOSE), Seal(bytes(31) + b"\1", PURPOSE)
SECRET = "sk-a-secret-of-some-length-1234"
SECOND, OTHER = ProviderTerms("https://second.example/v1"), ProviderTerms("https://other.example/v1")


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    async with pool_of(database) as pool:
        yield pool


async def test_what_was_sealed_is_opened_and_nothing_else_is_kept(pool: asyncpg.Pool) -> None:
    """Keys come back in their order; the secret is in no row, of the audit log neither; its last four letters are."""
    rows = ProviderRows(pool, OLD)
    provider = await rows.add("second", SECOND)
    assert await rows.opened() == []
    keys = [await rows.add_key(provider.id, SECRET + str(number)) for number in range(2)]
    (opened,) = await rows.opened()
    assert opened.secrets == (SECRET + "0", SECRET + "1")
    assert [key.last_four for key in keys] == ["2340", "2341"]
    for table in ("provider_keys", "providers", "audit_log", "changes"):
        for row in await pool.fetch(f"SELECT t::text AS text FROM {table} t"):
            assert "secret-of-some" not in row["text"]
            assert SECRET.encode().hex() not in row["text"]
    assert await rows.add_key(provider.id, "short") is not None
    assert [key.last_four for key in await rows.keys()] == ["2340", "2341", ""]


async def test_a_secret_cannot_be_moved_nor_changed(pool: asyncpg.Pool) -> None:
    """What lies in another row, or differs by a bit, opens for nobody, and the others still do."""
    rows = ProviderRows(pool, OLD)
    provider = await rows.add("second", SECOND)
    one, two = await rows.add_key(provider.id, SECRET + "1"), await rows.add_key(provider.id, SECRET + "2")
    sealed = await pool.fetchval("SELECT sealed FROM provider_keys WHERE id = $1", one.id)
    await pool.execute("UPDATE provider_keys SET sealed = $1 WHERE id = $2", sealed, two.id)
    assert [opened.secrets for opened in await rows.opened()] == [(SECRET + "1",)]
    await pool.execute("UPDATE provider_keys SET sealed = set_byte(sealed, 20, get_byte(sealed, 20) # 1)")
    assert await rows.opened() == []


async def test_who_writes_to_the_database_and_no_more_gets_no_key_sent_to_himself(pool: asyncpg.Pool) -> None:
    """A key is sealed for its server: it opens on another path there, not at another host; rotated there it does."""
    rows = ProviderRows(pool, OLD)
    provider = await rows.add("second", SECOND)
    key = await rows.add_key(provider.id, SECRET)
    await pool.execute("UPDATE providers SET base_url = 'https://second.example/another/path'")
    assert [opened.secrets for opened in await rows.opened()] == [(SECRET,)]
    await pool.execute("UPDATE providers SET base_url = 'https://other.example/v1'")
    assert (await rows.opened(), [one.usable for one in await rows.keys()]) == ([], [False])
    assert await ProviderRows(pool, NEW, [OLD]).reseal() == (0, 1), "nor by way of another master key"
    await rows.rotate_key(key.id, SECRET + "2")
    assert [opened.secrets for opened in await rows.opened()] == [(SECRET + "2",)]


async def test_the_master_key_is_replaced(pool: asyncpg.Pool) -> None:
    """With both, everything opens; sealed anew, the new one alone opens it, and the old one nothing."""
    provider = await ProviderRows(pool, OLD).add("second", SECOND, {"X-Team": SECRET})
    await ProviderRows(pool, OLD).add_key(provider.id, SECRET)
    whole = [OpenedProvider("second", SECOND, (("X-Team", SECRET),), (SECRET,))]
    assert await ProviderRows(pool, NEW).opened() == []
    assert await ProviderRows(pool, NEW).reseal() == (0, 2)
    both = ProviderRows(pool, NEW, [OLD])
    assert await both.opened() == whole
    (key,) = await both.keys()
    assert [one.usable for one in (key, *await ProviderRows(pool, NEW).keys())] == [True, False]
    assert sorted(await asyncio.gather(*(both.reseal() for _ in range(4)))) == [(0, 0)] * 3 + [(2, 0)]
    assert await both.reseal() == (0, 0)
    assert await both.keys() == [key], "its secret is as old as it was"
    assert await ProviderRows(pool, NEW).opened() == whole
    assert await ProviderRows(pool, OLD).opened() == []
    assert await pool.fetchval("SELECT count(*) FROM audit_log WHERE action = 'provider_key.reseal'") == 1


async def test_a_new_master_key_seals_all_or_nothing(pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is ended in the middle has done nothing, and beside him keys are rotated, headers set and providers moved."""
    old, both = ProviderRows(pool, OLD), ProviderRows(pool, NEW, [OLD])
    providers = [await old.add(f"p{number}", SECOND, {"X-Team": SECRET}) for number in range(6)]
    keys = [await old.add_key(provider.id, SECRET) for provider in providers]
    sealed = both._sealing.sealed

    def ended(secret: str, bound_to: bytes) -> bytes:
        if not bound_to.startswith(keys[0].id.bytes):
            raise asyncio.CancelledError
        return sealed(secret, bound_to)

    with monkeypatch.context() as patch:
        patch.setattr(both._sealing, "sealed", ended)
        with pytest.raises(asyncio.CancelledError):
            await both.reseal()
    assert len(await old.opened()) == 6
    await asyncio.gather(
        both.reseal(), both.rotate_key(keys[1].id, SECRET + "2"), both.change(providers[2].id, {}, {"X-Team": "b"}),
        both.change(providers[3].id, {"base_url": OTHER.base_url}), both.remove(providers[4].id), both.reseal(),
    )  # fmt: skip
    assert {one.name: (one.headers[0][1], *one.secrets) for one in await ProviderRows(pool, NEW).opened()} == {
        "p0": (SECRET, SECRET), "p1": (SECRET, SECRET + "2"), "p2": ("b", SECRET), "p5": (SECRET, SECRET),
    }  # fmt: skip


async def test_what_is_removed_is_forgotten(pool: asyncpg.Pool) -> None:
    """A key, or a provider with its keys; its name is free again."""
    rows = ProviderRows(pool, OLD)
    provider = await rows.add("second", SECOND)
    with pytest.raises(ApiError) as refused:
        await rows.add("second", OTHER)
    assert refused.value.case is Case.CONFLICT
    key = await rows.add_key(provider.id, SECRET)
    await rows.remove_key(key.id)
    assert await pool.fetchval("SELECT sealed FROM provider_keys") == b""
    for call in (rows.remove_key(key.id), rows.rotate_key(key.id, SECRET), rows.provider_of_key(key.id)):
        with pytest.raises(ApiError) as refused:
            await call  # type: ignore[misc]
        assert refused.value.case is Case.NOT_FOUND
    await rows.add_key(provider.id, SECRET)
    await rows.remove(provider.id)
    assert await rows.opened() == await rows.keys() == await rows.list() == []
    assert (await rows.add("second", OTHER)).name == "second"


async def test_a_provider_changes_and_no_secret_follows_it_to_another_host(pool: asyncpg.Pool) -> None:
    """Its path, prices and models change under its secrets; at another host it begins without, and the log says so."""
    rows = ProviderRows(pool, OLD)
    provider = await rows.add("second", SECOND, {"X-Team": SECRET})
    await rows.add_key(provider.id, SECRET)
    wish = {
        "base_url": "https://second.example/openai/v1",
        "prices": "groq",
        "models": ("llama*",),
        "connect_seconds": 2,
    }
    changed = await rows.change(provider.id, wish)
    assert (changed.name, changed.terms) == ("second", replace(SECOND, **wish))
    assert await rows.opened() == [OpenedProvider("second", changed.terms, (("X-Team", SECRET),), (SECRET,))]
    for address in ("https://other.example/v1", "http://other.example/v1", "http://other.example:8080/v1"):
        await rows.add_key(provider.id, SECRET)
        moved = await rows.change(provider.id, {"base_url": address})
        assert (moved.terms.models, moved.header_names) == (("llama*",), ())
        assert await rows.opened() == await rows.keys() == []
    assert await pool.fetchval("SELECT count(*) FROM provider_keys WHERE sealed <> ''") == 0
    assert await pool.fetchval("SELECT count(*) FROM provider_headers") == 0
    told = await pool.fetchval("SELECT max(detail::text) FROM audit_log WHERE detail::text LIKE '%headers_forgotten%'")
    assert ('"keys_forgotten": 2' in told, '"headers_forgotten": ["X-Team"]' in told) == (True, True)
    before = await pool.fetchval("SELECT count(*) FROM audit_log")
    same = {name: getattr(moved.terms, name) for name in ("base_url", "prices", "models", "tls_ca", "connect_seconds")}
    assert await rows.change(provider.id, same, {"X-Nobody": None}) == moved
    assert await pool.fetchval("SELECT count(*) FROM audit_log") == before, "what is saved as it was is no change"
    with pytest.raises(ApiError) as refused:
        await rows.change(uuid4(), {"base_url": "https://other.example/v1"})
    assert refused.value.case is Case.NOT_FOUND


async def test_no_secret_is_shown_to_whom_another_authority_names(pool: asyncpg.Pool) -> None:
    """Trusting fewer keeps keys and headers, trusting others forgets them, and so does going back to the system's."""
    rows = ProviderRows(pool, OLD)
    one, two, three = (f"-----BEGIN CERTIFICATE-----\n{letter}\n-----END CERTIFICATE-----" for letter in "abc")
    provider = await rows.add("second", replace(SECOND, tls_ca=f"{one}\n{two}"))
    for tls_ca, kept in ((two, True), (f"{two}\n{three}", False), (None, False), (None, True), (one, False)):
        await rows.add_key(provider.id, SECRET)
        await rows.change(provider.id, {"models": ("x",)}, {"X-Team": SECRET})
        changed = await rows.change(provider.id, {"tls_ca": tls_ca, "models": ("y",)})
        assert bool(await rows.keys()) == (changed.header_names == ("X-Team",)) == kept, tls_ca
    assert one not in str(await pool.fetch("SELECT detail FROM audit_log")), "it is named by its digest"


async def test_headers_are_set_and_forgotten_one_by_one(pool: asyncpg.Pool) -> None:
    """Their values are in no row as they are, and open for this provider at this server only; there is a most of them."""
    rows = ProviderRows(pool, OLD)
    provider = await rows.add("second", SECOND, {"X-Team": "a", "X-Other": SECRET})
    await rows.add_key(provider.id, SECRET)
    changed = await rows.change(provider.id, {}, {"x-team": SECRET + "2", "X-OTHER": None})
    assert changed.header_names == ("x-team",)
    assert [one.headers for one in await rows.opened()] == [(("x-team", SECRET + "2"),)]
    assert (await rows.reached(provider.id)).secrets == ()
    for table in ("provider_headers", "providers", "audit_log", "changes"):
        for row in await pool.fetch(f"SELECT t::text AS text FROM {table} t"):
            assert "secret-of-some" not in row["text"]
            assert SECRET.encode().hex() not in row["text"]
    with pytest.raises(ApiError) as refused:
        await rows.change(provider.id, {}, {f"X-{number}": "a" for number in range(MOST_HEADERS)})
    assert refused.value.case is Case.CONFLICT
    assert [one.headers for one in await rows.opened()] == [(("x-team", SECRET + "2"),)], "nothing of it was done"

    await pool.execute("UPDATE providers SET base_url = 'https://other.example/v1'")  # as who writes there and no more
    assert await rows.opened() == [], "rather nothing than without them"
    with pytest.raises(ApiError) as refused:
        await rows.reached(provider.id)
    assert refused.value.case is Case.CONFLICT
    await rows.change(provider.id, {}, {"X-Team": "b"})
    assert (await rows.reached(provider.id)).headers == (("X-Team", "b"),)
    await rows.remove(provider.id)
    assert await pool.fetchval("SELECT count(*) FROM provider_headers") == 0


async def test_a_secret_that_was_tried_at_one_host_is_not_kept_for_another(pool: asyncpg.Pool) -> None:
    """Whoever moves a provider while a key of it is being tried does not get that key sent to where it is now."""
    rows = ProviderRows(pool, OLD)
    provider = await rows.add("second", SECOND)
    await rows.change(provider.id, {"base_url": "https://second.example/openai/v1"})
    assert await rows.add_key(provider.id, SECRET, tried_at=provider.terms), "another path of the same host"
    await rows.change(provider.id, {"base_url": "https://other.example/v1"})
    with pytest.raises(ApiError) as refused:
        await rows.add_key(provider.id, SECRET, tried_at=provider.terms)
    assert refused.value.case is Case.CONFLICT
    assert await rows.keys() == []
