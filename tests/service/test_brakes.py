"""Brakes: what an operator stops is stopped on a running service within a moment, and goes on as before afterwards."""

import socket
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests.service.running import Service, until_asked

pytestmark = pytest.mark.asyncio(loop_scope="session")

HELLO = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 5}


class Person:
    """Somebody with a key, who asks again and again."""

    def __init__(self, service: Service, secret: str, session: aiohttp.ClientSession) -> None:
        self.service = service
        self._session = session
        self._headers = {"Authorization": f"Bearer {secret}"}

    async def chat(self) -> tuple[int, str | None]:
        async with self._session.post(
            f"{self.service.base_url}/chat/completions", json=HELLO, headers=self._headers
        ) as answer:
            content = await answer.json()
            return answer.status, content["error"]["code"] if "error" in content else None

    async def models(self) -> int:
        async with self._session.get(f"{self.service.base_url}/models", headers=self._headers) as answer:
            return answer.status

    async def hears(self, status: int, code: str | None = None) -> None:
        """Ask until the answer is this one."""

        async def heard() -> bool:
            return await self.chat() == (status, code)

        await until_asked(heard, f"{status} {code}")


@pytest_asyncio.fixture(loop_scope="session")
async def person(shared: Service) -> AsyncIterator[tuple[str, Person]]:
    account, secret = await shared.customer("5.00")
    async with aiohttp.ClientSession() as session:
        somebody = Person(shared, secret, session)
        assert await somebody.chat() == (200, None)
        yield account, somebody


async def patched(service: Service, path: str, **body: Any) -> Any:
    return await service.admin("PATCH", path, body, status=200)


async def test_a_frozen_account_is_served_nothing_that_costs(shared: Service, person: tuple[str, Person]) -> None:
    """Until it is unfrozen; what is free goes on, and so do all others."""
    account, somebody = person
    frozen = await patched(shared, f"/admin/accounts/{account}", frozen=True)
    assert frozen["frozen_at"] is not None
    await somebody.hears(403, "account_frozen")
    assert await somebody.models() == 200
    again = await patched(shared, f"/admin/accounts/{account}", frozen=True, overdraft="1.00")
    assert (again["frozen_at"], again["overdraft_nanos"]) == (frozen["frozen_at"], 10**9)
    assert (await patched(shared, f"/admin/accounts/{account}", frozen=False))["frozen_at"] is None
    await somebody.hears(200)


async def test_read_only_stops_everything_that_costs(shared: Service, person: tuple[str, Person]) -> None:
    """For everybody, while the management API and what is free go on."""
    _, somebody = person
    try:
        assert (await patched(shared, "/admin/fleet", read_only=True))["read_only"] is True
        await somebody.hears(503, "read_only")
        assert await somebody.models() == 200
        assert (await shared.admin("GET", "/admin/fleet"))["lending"] is True
    finally:
        await patched(shared, "/admin/fleet", read_only=False)
    await somebody.hears(200)


async def test_a_drained_host_gives_back_what_it_has(shared: Service, person: tuple[str, Person]) -> None:
    """It says why it is not ready, serves nothing that costs, and returns at a word."""
    account, somebody = person
    host = socket.gethostname()
    path = f"/admin/hosts/{host}"

    async def leased() -> int:
        told = await shared.admin("GET", f"/admin/accounts/{account}?fresh=1", status=200)
        return int(told["leased_nanos"])

    async def nothing_leased() -> bool:
        return await leased() == 0

    assert await leased() > 0
    try:
        await patched(shared, path, drained=True)
        await somebody.hears(503, "host_drained")
        unready = await shared.admin("GET", "/readyz", status=503)
        assert unready["reason"] == f"the host {host} is drained"
        await until_asked(nothing_leased, "the return of what was lent")
        (told,) = (await shared.admin("GET", "/admin/hosts"))["data"]
        assert (told["host"], told["workers"] > 0, told["drained_at"] is None) == (host, True, False)
    finally:
        await patched(shared, path, drained=False)
    await somebody.hears(200)
    await shared.admin("PATCH", "/admin/hosts/nobody-knows", {"drained": True}, status=404)


async def test_what_a_key_may_do_changes_while_it_is_used(shared: Service) -> None:
    """Within a moment, and back."""
    account, secret = await shared.customer("5.00")
    (key,) = (await shared.admin("GET", f"/admin/keys?account_id={account}"))["data"]
    async with aiohttp.ClientSession() as session:
        somebody = Person(shared, secret, session)
        await somebody.hears(200)
        await patched(shared, f"/admin/keys/{key['id']}", operations=["embedding"])
        await somebody.hears(403, "permission_denied")
        await patched(shared, f"/admin/keys/{key['id']}", operations=None, highest_request="0.000000001")
        await somebody.hears(403, "permission_denied")
        await patched(shared, f"/admin/keys/{key['id']}", highest_request=None, expires_at="2001-01-01T00:00:00Z")
        await somebody.hears(401, "invalid_api_key")


async def test_every_brake_is_in_the_audit_log(shared: Service, person: tuple[str, Person]) -> None:
    """Who stopped what, and when."""
    account, _ = person
    await patched(shared, f"/admin/accounts/{account}", frozen=True)
    await patched(shared, "/admin/fleet", read_only=False)
    rows = await shared.rows("SELECT action, actor FROM audit_log ORDER BY id DESC LIMIT 2")
    assert [tuple(row) for row in rows] == [("fleet.change", "operator"), ("account.change", "operator")]
