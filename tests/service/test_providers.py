"""Providers that are added while the service runs."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import aiohttp
import openai
import pytest
import pytest_asyncio

from meterproxy.catalog.catalog import Catalog
from meterproxy.core.provider import ProviderTerms
from meterproxy.proxy.route import Router
from meterproxy.service.providers import StoredProviders
from meterproxy.simulator.app import running as simulator
from meterproxy.simulator.settings import SimulatorSettings
from meterproxy.store.providers import OpenedProvider, ProviderRows
from tests import postgres
from tests.proxy import scripted
from tests.service.running import Service, service

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECRET = "sk-second-provider-secret-1234"
HEADER = "blue-team-secret-1234"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def narrow() -> AsyncIterator[Service]:
    """A service whose configured provider serves one model only."""
    with postgres.reachable_directory() as directory:
        config = directory / "config.yaml"
        config.write_text(
            "providers:\n  openai:\n    base_url: ${OPENAI_BASE_URL}\n    api_key: ${OPENAI_API_KEY}\n"
            "    models: [gpt-4o-mini]\n"
        )
        config.chmod(0o644)
        async with service(directory, environment={"METERPROXY_CONFIG": str(config)}) as running:
            yield running
            await running.audit()


async def asked(running: Service, secret: str, model: str) -> str | None:
    async with openai.AsyncOpenAI(base_url=running.base_url, api_key=secret, max_retries=0) as client:
        answer = await client.chat.completions.create(model=model, messages=[{"role": "user", "content": "Hello."}])
    return answer.choices[0].message.content


async def comes_about(running: Service, secret: str, model: str) -> None:
    """Wait until a model is served."""
    async with asyncio.timeout(10):
        while True:
            try:
                await asked(running, secret, model)
            except openai.NotFoundError:
                await asyncio.sleep(0.05)
            else:
                return


async def added(running: Service, name: str, base_url: str, *models: str) -> str:
    body = {"name": name, "base_url": base_url, "models": models}
    made: Any = await running.admin("POST", "/api/admin/providers", body, status=201)
    return str(made["id"])


async def test_a_provider_serves_once_it_has_a_key_that_it_takes(narrow: Service) -> None:
    """Within a second, to all; a key that is refused is not kept; no answer, row or log has the secret."""
    _, key = await narrow.customer()
    await asked(narrow, key, "gpt-4o-mini")
    with pytest.raises(openai.NotFoundError):
        await asked(narrow, key, "gpt-4.1")
    async with simulator(SimulatorSettings(key=SECRET)) as second:
        provider_id = await added(narrow, "second", second, "gpt-4.1")
        body = {"provider_id": provider_id, "secret": "sk-wrong"}
        refused = await narrow.admin("POST", "/api/admin/provider-keys", body, status=400)
        assert refused["error"]["message"] == "The provider does not take this key."
        made = await narrow.admin("POST", "/api/admin/provider-keys", {**body, "secret": SECRET}, status=201)
        assert made["last_four"] == SECRET[-4:]
        await comes_about(narrow, key, "gpt-4.1")
        told = await narrow.admin("GET", "/api/admin/provider-keys")
        assert SECRET not in str(told) + str(made) + narrow.whole_log()
        account = (await narrow.admin("GET", "/admin/accounts?limit=500"))["data"][-1]["id"]
        await narrow.balance_nanos(account)  # waits until what was asked is settled
        rows = await narrow.rows("SELECT provider FROM usage_events WHERE model = 'gpt-4.1'")
        assert {row["provider"] for row in rows} == {"second"}

        await narrow.admin("DELETE", f"/api/admin/providers/{provider_id}", status=None)
        async with asyncio.timeout(10):
            while True:
                try:
                    await asked(narrow, key, "gpt-4.1")
                except openai.NotFoundError:
                    break


async def test_the_next_key_is_used_where_one_is_refused(narrow: Service) -> None:
    """And a rotated one serves again, while requests go on."""
    _, key = await narrow.customer()
    async with simulator(SimulatorSettings(key=SECRET)) as third:
        provider_id = await added(narrow, "third", third, "gpt-4.1-mini")
        bad = {"provider_id": provider_id, "secret": "sk-not-taken-any-more-0000", "test": False}
        first = await narrow.admin("POST", "/api/admin/provider-keys", bad, status=201)
        await narrow.admin(
            "POST", "/api/admin/provider-keys", {"provider_id": provider_id, "secret": SECRET}, status=201
        )
        async with asyncio.timeout(10):
            while True:  # the first request rests the first key; those after it go by the second
                try:
                    await asked(narrow, key, "gpt-4.1-mini")
                except (openai.NotFoundError, openai.InternalServerError):
                    await asyncio.sleep(0.05)
                else:
                    break
        path = f"/api/admin/provider-keys/{first['id']}/rotate"
        assert (await narrow.admin("POST", path, {"secret": SECRET}, status=200))["last_four"] == SECRET[-4:]
        for _ in range(20):
            await asked(narrow, key, "gpt-4.1-mini")
            await asyncio.sleep(0.05)


async def test_it_is_reached_as_it_was_said(narrow: Service) -> None:
    """Over TLS by an authority of its own, with headers, for as long as it may take; each change is in force at once."""
    _, key = await narrow.customer()
    context, ca = scripted.Provider(()).tls(), Path(scripted.CA_FILE).read_text()
    async with simulator(SimulatorSettings(key=SECRET), tls=context) as fourth:
        provider_id = await added(narrow, "fourth", fourth, "gpt-4.1-nano")
        path, body = f"/api/admin/providers/{provider_id}", {"provider_id": provider_id, "secret": SECRET}
        refused = await narrow.admin("POST", "/api/admin/provider-keys", body, status=400)
        assert "no certificate that is trusted here" in refused["error"]["message"]
        await narrow.admin("PATCH", path, {"tls_ca": ca, "headers": {"X-Team": HEADER}}, status=200)
        await narrow.admin("POST", "/api/admin/provider-keys", body, status=201)
        await comes_about(narrow, key, "gpt-4.1-nano")
        assert await headers_of_last_call(fourth) == [HEADER]

        await narrow.admin("PATCH", path, {"headers": {"X-Team": "green"}}, status=200)
        async with asyncio.timeout(10):
            while await headers_of_last_call(fourth) != ["green"]:
                await asked(narrow, key, "gpt-4.1-nano")
        assert HEADER not in str(await narrow.admin("GET", "/api/admin/providers")) + narrow.whole_log()

        await narrow.admin("PATCH", path, {"timeouts": {"first_byte_seconds": 1e-6}}, status=200)
        async with asyncio.timeout(10):
            while (said := await what_is_said(narrow, key, "gpt-4.1-nano")) is None:
                pass
        assert said == "upstream_timeout"
        await narrow.admin("DELETE", path, status=None)


async def what_is_said(running: Service, secret: str, model: str) -> str | None:
    """The code of the error that a request gets, if it gets one."""
    try:
        await asked(running, secret, model)
    except openai.APIStatusError as error:
        return error.code
    return None


async def headers_of_last_call(base_url: str) -> list[str]:
    """The values of `X-Team` in what a provider was asked last by a client."""
    trusting = ssl.create_default_context(cafile=scripted.CA_FILE)
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{base_url.removesuffix('/v1')}/_simulator/calls", ssl=trusting) as answer:
            calls = (await answer.json())["calls"]
    last = [call for call in calls if call["path"] == "/v1/chat/completions"][-1]
    return [value for name, value in last["headers"] if name == "X-Team"]


class Rows:
    """Stored providers, as a test says."""

    def __init__(self) -> None:
        self.stored: list[OpenedProvider] = []

    async def opened(self) -> list[OpenedProvider]:
        return list(self.stored)


def opened(name: str, *secrets: str) -> OpenedProvider:
    return OpenedProvider(name, ProviderTerms("https://127.0.0.1:1/v1"), secrets=secrets)


async def test_what_has_not_changed_stays_with_its_connections() -> None:
    """A change of one provider costs the others neither their warm connections nor what they have learnt."""
    rows, router = Rows(), Router((), Catalog())
    stored = StoredProviders(cast("ProviderRows", rows), (), router)
    rows.stored = [opened("a", "1"), opened("b", "1")]
    await stored.look()
    a, b = router.providers
    rows.stored = [opened("a", "1", "2"), opened("b", "1"), opened("c", "1")]
    await stored.look()
    assert router.providers[0] is not a
    assert router.providers[1] is b
    assert [provider.name for provider in router.providers] == ["a", "b", "c"]
    unusable = OpenedProvider("d", ProviderTerms("http://[fe80::1%é]/v1"), secrets=("1",))
    rows.stored = [unusable, opened("b", "1")]
    await stored.look()
    assert router.providers == (b,), "one that cannot be used takes no other with it"
    await stored.close()
