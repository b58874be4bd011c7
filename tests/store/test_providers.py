"""Providers in the database: their secrets are whole or nothing, and nobody reads them."""

from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest

from meterproxy.core.seal import Seal
from meterproxy.errors import ApiError, Case
from meterproxy.store.providers import PURPOSE, ProviderRows
from tests.ledger.bank import pool_of

OLD, NEW = Seal(bytes(32), PURPOSE), Seal(bytes(31) + b"\1", PURPOSE)
SECRET = "sk-a-secret-of-some-length-1234"


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    async with pool_of(database) as pool:
        yield pool


async def test_what_was_sealed_is_opened_and_nothing_else_is_kept(pool: asyncpg.Pool) -> None:
    """Keys come back in their order; the secret is in no row, of the audit log neither; its last four letters are."""
    rows = ProviderRows(pool, OLD)
    provider = await rows.add("second", "https://second.example/v1", "openai", ["a*"])
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
    provider = await rows.add("second", "https://second.example/v1", "openai", ["*"])
    one, two = await rows.add_key(provider.id, SECRET + "1"), await rows.add_key(provider.id, SECRET + "2")
    sealed = await pool.fetchval("SELECT sealed FROM provider_keys WHERE id = $1", one.id)
    await pool.execute("UPDATE provider_keys SET sealed = $1 WHERE id = $2", sealed, two.id)
    assert [opened.secrets for opened in await rows.opened()] == [(SECRET + "1",)]
    await pool.execute("UPDATE provider_keys SET sealed = set_byte(sealed, 20, get_byte(sealed, 20) # 1)")
    assert await rows.opened() == []


async def test_the_master_key_is_replaced(pool: asyncpg.Pool) -> None:
    """With both, everything opens; sealed anew, the new one alone opens it, and the old one nothing."""
    provider = await ProviderRows(pool, OLD).add("second", "https://second.example/v1", "openai", ["*"])
    await ProviderRows(pool, OLD).add_key(provider.id, SECRET)
    assert await ProviderRows(pool, NEW).opened() == []
    assert await ProviderRows(pool, NEW).reseal() == (0, 1)
    both = ProviderRows(pool, NEW, [OLD])
    assert [opened.secrets for opened in await both.opened()] == [(SECRET,)]
    assert await both.reseal() == (1, 0)
    assert await both.reseal() == (0, 0)
    assert [opened.secrets for opened in await ProviderRows(pool, NEW).opened()] == [(SECRET,)]
    assert await ProviderRows(pool, OLD).opened() == []


async def test_what_is_removed_is_forgotten(pool: asyncpg.Pool) -> None:
    """A key, or a provider with its keys; its name is free again."""
    rows = ProviderRows(pool, OLD)
    provider = await rows.add("second", "https://second.example/v1", "openai", ["*"])
    with pytest.raises(ApiError) as refused:
        await rows.add("second", "https://other.example/v1", "openai", ["*"])
    assert refused.value.case is Case.CONFLICT
    key = await rows.add_key(provider.id, SECRET)
    await rows.remove_key(key.id)
    assert await pool.fetchval("SELECT sealed FROM provider_keys") == b""
    for call in (rows.remove_key(key.id), rows.rotate_key(key.id, SECRET), rows.url_of_key(key.id)):
        with pytest.raises(ApiError) as refused:
            await call  # type: ignore[misc]
        assert refused.value.case is Case.NOT_FOUND
    await rows.add_key(provider.id, SECRET)
    await rows.remove(provider.id)
    assert await rows.opened() == await rows.keys() == await rows.list() == []
    assert (await rows.add("second", "https://other.example/v1", "openai", ["*"])).name == "second"


async def test_a_provider_changes_and_no_secret_follows_it_to_another_host(pool: asyncpg.Pool) -> None:
    """Its path, prices and models change under its keys; at another host it begins without any, and the log says so."""
    rows = ProviderRows(pool, OLD)
    provider = await rows.add("second", "https://second.example/v1", "openai", ["*"])
    await rows.add_key(provider.id, SECRET)
    changed = await rows.change(provider.id, "https://second.example/openai/v1", "groq", ["llama*"])
    assert (changed.name, changed.base_url, changed.prices, changed.models) == (
        "second", "https://second.example/openai/v1", "groq", ["llama*"],
    )  # fmt: skip
    assert [(one.base_url, one.secrets) for one in await rows.opened()] == [(changed.base_url, (SECRET,))]
    for address in ("https://other.example/v1", "http://other.example/v1", "http://other.example:8080/v1"):
        await rows.add_key(provider.id, SECRET)
        assert (await rows.change(provider.id, address)).models == ["llama*"]
        assert await rows.opened() == await rows.keys() == []
    assert await pool.fetchval("SELECT count(*) FROM provider_keys WHERE sealed <> ''") == 0
    told = await pool.fetchval("SELECT max(detail::text) FROM audit_log WHERE detail::text LIKE '%keys_forgotten%'")
    assert '"keys_forgotten": 2' in told
    before = await pool.fetchval("SELECT count(*) FROM audit_log")
    same = await rows.list()
    assert [await rows.change(provider.id, one.base_url, one.prices, one.models) for one in same] == same
    assert await pool.fetchval("SELECT count(*) FROM audit_log") == before, "what is saved as it was is no change"
    with pytest.raises(ApiError) as refused:
        await rows.change(uuid4(), "https://other.example/v1")
    assert refused.value.case is Case.NOT_FOUND


async def test_a_secret_that_was_tried_at_one_host_is_not_kept_for_another(pool: asyncpg.Pool) -> None:
    """Whoever moves a provider while a key of it is being tried does not get that key sent to where it is now."""
    rows = ProviderRows(pool, OLD)
    provider = await rows.add("second", "https://second.example/v1", "openai", ["*"])
    await rows.change(provider.id, "https://second.example/openai/v1")
    assert await rows.add_key(provider.id, SECRET, tried_at=provider.base_url), "another path of the same host"
    await rows.change(provider.id, "https://other.example/v1")
    with pytest.raises(ApiError) as refused:
        await rows.add_key(provider.id, SECRET, tried_at=provider.base_url)
    assert refused.value.case is Case.CONFLICT
    assert await rows.keys() == []
