"""A provider's list of models: fetched seldom, bounded in time, by the key that is taken."""

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from meterproxy.core.provider import ProviderTerms
from meterproxy.errors import ApiError, Case
from meterproxy.proxy import models as models_module
from meterproxy.proxy import probe as probe_module
from meterproxy.proxy.models import FRESH_US, MOST_MODELS, RETRY_US, ProviderModels
from meterproxy.proxy.probe import probe
from meterproxy.proxy.provider import Provider
from meterproxy.proxy.upstream import Origin, Upstream
from tests.proxy import scripted
from tests.proxy.scripted import CA_FILE, Peer, Script, answers


def says(status: int, body: Any = b"") -> bytes:
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(content), content)


def lists(*names: str) -> bytes:
    return says(200, {"object": "list", "data": [{"id": name} for name in names]})


async def silent(peer: Peer) -> None:
    await peer.request()
    await peer.closed()


def by(port: int, key: str, spare: Provider | None = None) -> Provider:
    return Provider("p", Upstream(Origin.from_base_url(f"http://127.0.0.1:{port}/v1")), key, spare=spare)


async def closed(*providers: Provider) -> None:
    for provider in providers:
        for one in provider.chain():
            await one.upstream.close()


async def test_a_list_is_fetched_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many ask; while it cannot be fetched the last one stands."""
    async with scripted.provider(answers(lists("a"), says(500), lists("b"))) as served:
        provider = by(served.port, "k")
        known = ProviderModels(provider)
        assert [list(one) for one in await asyncio.gather(*(known.read(0) for _ in range(5)))] == [["a"]] * 5
        assert list(await known.read(FRESH_US - 1)) == ["a"]
        assert list(await known.read(FRESH_US)) == ["a"]
        assert list(await known.read(FRESH_US + 2 * RETRY_US)) == ["b"]
        await closed(provider)


async def test_a_provider_that_is_silent_keeps_nobody_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks meanwhile hears of the failure at once; after a while it is asked again."""
    monkeypatch.setattr(models_module, "FETCH_SECONDS", 0.05)
    async with scripted.provider(silent, answers(lists("a"))) as served:
        provider = by(served.port, "k")
        known = ProviderModels(provider)
        for _ in range(3):
            with pytest.raises(ApiError) as refused:
                await known.read(0)
            assert refused.value.case is Case.UPSTREAM_TIMEOUT
        assert served.connections == 1
        monkeypatch.setattr(models_module, "FETCH_SECONDS", 10.0)
        assert list(await known.read(2 * RETRY_US)) == ["a"]
        await closed(provider)


async def test_a_failure_that_took_long_is_not_followed_by_the_next_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who came while it was fetched hears of it at once, however long that took: nobody stands in line for another."""
    monkeypatch.setattr(models_module, "FETCH_SECONDS", 0.2)
    monkeypatch.setattr(models_module, "RETRY_US", 100_000)
    async with scripted.provider(silent) as served:
        provider = by(served.port, "k")
        known = ProviderModels(provider)
        came = (0, 50_000, 110_000, 190_000)
        for failure in await asyncio.gather(*(known.read(at) for at in came), return_exceptions=True):
            assert isinstance(failure, ApiError)
        assert served.connections == 1
        await closed(provider)


async def test_the_last_list_stands_for_who_comes_while_it_is_fetched() -> None:
    """One waits for the provider, nobody else."""
    asked, told = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.answer(lists("a"))
        await peer.request()
        asked.set()
        await told.wait()
        await peer.send(lists("b"))
        await peer.closed()

    async with scripted.provider(script) as served:
        provider = by(served.port, "k")
        known = ProviderModels(provider)
        await known.read(0)
        waiting = asyncio.create_task(known.read(FRESH_US))
        await asked.wait()
        assert list(await known.read(FRESH_US)) == ["a"]
        told.set()
        assert list(await waiting) == ["b"]
        await closed(provider)


async def test_a_provider_that_begins_and_says_no_more_keeps_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor time for each of its keys: the fetch ends, and what it had open is closed."""
    monkeypatch.setattr(models_module, "FETCH_SECONDS", 0.2)
    ended = asyncio.Event()

    async def begins(peer: Peer) -> None:
        await peer.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
        await peer.closed()
        ended.set()

    async def refuses_late(peer: Peer) -> None:
        await peer.request()
        await asyncio.sleep(0.15)
        await peer.send(says(401))
        await peer.closed()

    async with scripted.provider(refuses_late, begins) as served:
        provider = by(served.port, "first", by(served.port, "second"))
        began = asyncio.get_running_loop().time()
        with pytest.raises(ApiError) as refused:
            await ProviderModels(provider).read(0)
        assert refused.value.case is Case.UPSTREAM_TIMEOUT
        assert asyncio.get_running_loop().time() - began < 0.3
        await asyncio.wait_for(ended.wait(), 5)
        await closed(provider)


async def test_of_an_endless_list_the_first_are_taken() -> None:
    """Whoever lists more than can be remembered would have each looked up anew with each request."""
    async with scripted.provider(answers(lists(*(f"m{number}" for number in range(MOST_MODELS + 5))))) as served:
        provider = by(served.port, "k")
        found = list(await ProviderModels(provider).read(0))
        assert (len(found), found[0], found[-1]) == (MOST_MODELS, "m0", f"m{MOST_MODELS - 1}")
        await closed(provider)


async def test_the_next_key_is_asked_where_one_is_refused() -> None:
    """A list can be had as long as one key of a provider is taken."""
    heard: list[str] = []

    def told(answer: bytes) -> Script:
        async def script(peer: Peer) -> None:
            heard.append(dict((await peer.answer(answer)).headers)["Authorization"])
            await peer.closed()

        return script

    async with scripted.provider(told(says(401)), told(lists("a"))) as served:
        provider = by(served.port, "first", by(served.port, "second"))
        assert list(await ProviderModels(provider).read(0)) == ["a"]
        await closed(provider)
    assert heard == ["Bearer first", "Bearer second"]


@pytest.mark.parametrize(("answer", "param", "said"), [
    (says(401), "secret", "does not take this key"),
    (says(403), "secret", "does not take this key"),
    (says(404), "base_url", "no list of models at this address (404)"),
    (says(503), "base_url", "status 503: nothing is known of the key"),
    (says(429), "base_url", "status 429: nothing is known of the key"),
    (says(200, b"<html>"), "base_url", "no list of models"),
    (says(302), "base_url", "status 302: nothing is known of the key"),
    (says(200, {"data": 3}), "base_url", "no list of models"),
    (says(200, {"data": {}}), "base_url", "no list of models"),
    (says(200, {"data": []}), "base_url", None),
    (says(200, b"[" * 3000), "base_url", "no list of models"),
    (lists(*map(str, range(200))), "base_url", "no list of models"),
    (b"SSH-2.0-OpenSSH_9.6\r\n", "base_url", "does not speak HTTP"),
])  # fmt: skip
async def test_what_is_said_of_a_key_that_could_not_be_tried(
    answer: bytes, param: str, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the operator can do about it, in one sentence, and nothing of the key; of a list only so much is read."""
    monkeypatch.setattr(models_module, "LIST_BYTES", 2000)

    async def script(peer: Peer) -> None:
        await peer.answer(answer)
        peer.close()

    async with scripted.provider(script) as served:
        if said is None:
            assert await probe(ProviderTerms(f"http://127.0.0.1:{served.port}/v1"), "sk-very-secret") == 0
            return
        with pytest.raises(ApiError) as refused:
            await probe(ProviderTerms(f"http://127.0.0.1:{served.port}/v1"), "sk-very-secret")
    assert (refused.value.case, refused.value.param) == (Case.MALFORMED, param)
    assert said in refused.value.message
    assert "very-secret" not in refused.value.message


@pytest.mark.parametrize(("address", "said"), [
    ("http://127.0.0.1:1/v1", "Nothing answers at its address."),
    ("http://nowhere.invalid/v1", "The name in its address is not known."),
])  # fmt: skip
async def test_an_address_where_nobody_is_is_told(address: str, said: str) -> None:
    """Not that the key is wrong."""
    with pytest.raises(ApiError, match=said) as refused:
        await probe(ProviderTerms(address), "k")
    assert refused.value.param == "base_url"


async def test_a_provider_that_stops_within_its_list_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """However patient its terms are: a person waits for the answer."""
    monkeypatch.setattr(probe_module, "SECONDS", 0.3)

    async def stops(peer: Peer) -> None:
        await peer.answer(b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n[\r\n")
        await peer.closed()

    async with scripted.provider(stops) as served:
        with pytest.raises(ApiError, match="did not answer in time"):
            await probe(ProviderTerms(f"http://127.0.0.1:{served.port}/v1"), "k")


def test_no_secret_of_a_provider_is_written_where_it_is_shown() -> None:
    """By whoever looks at one in a log or a debugger."""
    provider = Provider("p", Upstream(Origin.from_base_url("http://a")), "sk-secret", headers=((b"X-A", b"sk-secret"),))
    assert "sk-secret" not in repr(provider)


async def test_a_certificate_that_is_not_trusted_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """As what it is."""
    monkeypatch.setattr(probe_module, "SECONDS", 5.0)
    async with scripted.provider(tls=True) as served:
        with pytest.raises(ApiError, match="no certificate that is trusted here"):
            await probe(ProviderTerms(f"https://127.0.0.1:{served.port}/v1"), "k")


async def test_a_key_is_tried_as_the_provider_is_reached() -> None:
    """With its headers, and trusting whom it trusts."""
    seen: list[tuple[str, str]] = []

    async def script(peer: Peer) -> None:
        seen.extend((await peer.answer(lists("a", "b"))).headers)

    async with scripted.provider(script, tls=True) as served:
        terms = ProviderTerms(f"https://127.0.0.1:{served.port}/v1", tls_ca=Path(CA_FILE).read_text())
        assert await probe(terms, "k", [("X-Team", "blue")]) == 2
    assert ("X-Team", "blue") in seen
