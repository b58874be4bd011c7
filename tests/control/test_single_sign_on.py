"""Signing in on pages at an OpenID provider: who it is, and what nobody can make of it."""

import time
from collections.abc import AsyncIterator
from typing import Any, Literal
from urllib.parse import parse_qs, quote, urlsplit

import aiohttp
import asyncpg
import jwt
import pytest
import yaml

from meterproxy.config.openid import OpenIdTerms
from meterproxy.control import sign_in, single_sign_on
from meterproxy.control.issuer import RETRY_SECONDS, Issuer
from meterproxy.control.key_set import KeySet
from meterproxy.control.openid import OpenId
from meterproxy.control.single_sign_on import SingleSignOn
from tests import postgres
from tests.control.asking import SECRET, Asking, Heard
from tests.control.test_openid import AUDIENCE, CLIENT, CLIENT_SECRET, serving
from tests.control.test_openid import Issuer as Provider
from tests.ledger.bank import pool_of
from tests.service.running import service

BACK = "/login/openid/back"


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    async with pool_of(database) as pool:
        yield pool


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with serving() as provider:
        yield provider


def asking_of(
    provider: Provider, pool: asyncpg.Pool, registration: Literal["open", "closed"] = "open", secret: str | None = None
) -> Asking:
    terms = OpenIdTerms.model_validate(
        {"issuer": provider.url, "audience": AUDIENCE, "client_id": CLIENT, "client_secret": secret}
    )
    return Asking(
        pool,
        registration,
        lambda known: OpenId(terms, KeySet(provider.url, None, lambda: provider.now), known),
        public_url="https://meter.example.com",
        single_sign_on=lambda openid: SingleSignOn(terms, Issuer(provider.url, lambda: provider.now), openid, SECRET),
    )


class Browser:
    """Keeps cookies by their paths, and is sent from here to the provider and back."""

    def __init__(self, asking: Asking) -> None:
        self.asking = asking
        self.cookies: dict[str, Any] = {}

    async def get(self, path: str) -> Heard:
        sent = "; ".join(
            f"{name}={cookie.value}" for name, cookie in self.cookies.items() if path.startswith(cookie["path"])
        )
        heard = await self.asking("GET", path, headers={"Cookie": sent})
        self.cookies.update(heard.cookies or {})
        return heard

    async def sent_away(self, next_: str = "/keys") -> str:
        heard = await self.get(f"/login/openid?next={next_}")
        assert heard.status == 303, heard
        return str(heard.headers["Location"])

    async def signed_in_there(self, next_: str = "/keys") -> str:
        """The path by which the provider sends it back."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(await self.sent_away(next_), allow_redirects=False) as answer,
        ):
            back = answer.headers["Location"]
        assert back.startswith(f"https://meter.example.com{BACK}?")
        return back.removeprefix("https://meter.example.com")


@pytest.mark.parametrize("secret", [CLIENT_SECRET, None])
async def test_who_signs_in_there_is_signed_in_here(provider: Provider, pool: asyncpg.Pool, secret: str | None) -> None:
    """With a client's secret or by PKCE alone; he goes on to where he wanted, and is the same person the next time."""
    asking = asking_of(provider, pool, secret=secret)
    provider.told = {"email": "ann@example.com", "email_verified": True}
    people = set()
    for _ in range(2):
        browser = Browser(asking)
        assert b"Sign in with 127.0.0.1" in (await browser.get("/login")).body
        heard = await browser.get(await browser.signed_in_there())
        assert (heard.status, heard.headers["Location"]) == (303, "/keys")
        cookie = heard.cookies["meterproxy_session"]
        assert (cookie["httponly"], cookie["samesite"], cookie["secure"]) == (True, "Lax", True)
        assert heard.cookies["meterproxy_openid"]["max-age"] == "0", "it has served"
        assert b"Ann" in (await browser.get("/profile")).body
        people.add(await pool.fetchval("SELECT user_id FROM logins ORDER BY id DESC LIMIT 1"))
    assert len(people) == 1


async def test_what_it_asks_for_is_what_the_flow_demands(provider: Provider, pool: asyncpg.Pool) -> None:
    """A code for our client, bound to this browser by state, nonce and verifier, none of which can be guessed."""
    browsers = [Browser(asking_of(provider, pool)) for _ in range(2)]
    asked = [parse_qs(urlsplit(await browser.sent_away()).query) for browser in browsers]
    assert {name: value[0] for name, value in asked[0].items() if name not in {"state", "nonce", "code_challenge"}} == {
        "response_type": "code", "client_id": CLIENT, "scope": "openid profile email", "code_challenge_method": "S256",
        "redirect_uri": f"https://meter.example.com{BACK}",
    }  # fmt: skip
    for name in ("state", "nonce", "code_challenge"):
        assert len(asked[0][name][0]) >= 43
        assert asked[0][name] != asked[1][name]


async def test_a_code_is_worth_nothing_in_another_browser(provider: Provider, pool: asyncpg.Pool) -> None:
    """Nobody is signed in as somebody else by a link; nor later, nor twice, nor by what he has made up."""
    asking = asking_of(provider, pool)
    browser, other = Browser(asking), Browser(asking)
    back = await browser.signed_in_there()
    await other.sent_away()
    for who in (Browser(asking), other):
        refused = await who.get(back)
        assert (refused.status, "meterproxy_session" in refused.cookies) == (400, False)
        assert b"not begun here" in refused.body
    query = parse_qs(urlsplit(back).query)
    kept = browser.cookies["meterproxy_openid"].value
    content = jwt.decode(kept, options={"verify_signature": False})
    forged = [
        "", "nonsense", jwt.encode(content, "another secret of at least thirty-two bytes", "HS256"),
        jwt.encode({**content, "exp": int(time.time()) - 1}, SECRET, "HS256"),
        jwt.encode({**content, "aud": "meterproxy"}, SECRET, "HS256"), jwt.encode(content, None, "none"),
    ]  # fmt: skip
    for cookie in forged:
        path = f"{BACK}?code={query['code'][0]}&state={query['state'][0]}"
        assert (await asking("GET", path, headers={"Cookie": f"meterproxy_openid={cookie}"})).status == 400, cookie
    assert (await browser.get(back)).status == 303
    browser.cookies["meterproxy_openid"].set("meterproxy_openid", kept, kept)
    assert (await browser.get(back)).status == 400, "a code works once"


@pytest.mark.parametrize("told", [
    {"aud": AUDIENCE}, {"aud": "somebody"}, {"nonce": "another"}, {"nonce": None}, {"aud": [CLIENT, "x"]},
    {"aud": [CLIENT, "x"], "azp": "x"}, {"azp": "x"}, {"exp": 1}, {"iss": "https://somebody.example"},
])  # fmt: skip
async def test_a_token_that_is_not_for_us_signs_nobody_in(
    provider: Provider, pool: asyncpg.Pool, told: dict[str, Any]
) -> None:
    """For our client alone or authorized for it, of this issuer, for this sign-in, and not over."""
    browser, provider.told = Browser(asking_of(provider, pool)), told
    heard = await browser.get(await browser.signed_in_there())
    assert (heard.status, "meterproxy_session" in heard.cookies) == (400, False)


async def test_a_token_for_several_may_authorize_us(provider: Provider, pool: asyncpg.Pool) -> None:
    """Where it says so."""
    browser, provider.told = Browser(asking_of(provider, pool)), {"aud": [CLIENT, "x"], "azp": CLIENT}
    assert (await browser.get(await browser.signed_in_there())).status == 303


async def test_nobody_is_sent_anywhere_else(provider: Provider, pool: asyncpg.Pool) -> None:
    """Where one goes on after signing in is a path of ours, whatever a link says."""
    browser = Browser(asking_of(provider, pool))
    heard = await browser.get(await browser.signed_in_there("//evil.example/x"))
    assert (heard.status, heard.headers["Location"]) == (303, "/")


async def test_who_may_not_come_is_told_so_on_a_page(provider: Provider, pool: asyncpg.Pool) -> None:
    """Where registration is closed, where he is suspended, and where he has refused to sign in."""
    closed = Browser(asking_of(provider, pool, "closed"))
    assert b"Registration is closed" in (await closed.get(await closed.signed_in_there())).body
    browser = Browser(asking_of(provider, pool))
    assert (await browser.get(await browser.signed_in_there())).status == 303
    await pool.execute("UPDATE users SET suspended_at = now() WHERE NOT is_service")
    suspended = await browser.get(await browser.signed_in_there())
    assert (suspended.status, "meterproxy_session" in suspended.cookies) == (400, False)
    state = parse_qs(urlsplit(await browser.sent_away()).query)["state"][0]
    refused = await browser.get(f"{BACK}?error=access_denied&error_description=no&state={state}")
    assert (refused.status, b"not signed in there" in refused.body) == (400, True)


async def test_a_provider_that_is_away_is_told_so_and_asked_seldom(provider: Provider, pool: asyncpg.Pool) -> None:
    """Signing in by password is there all the same; once it is back, so is signing in there."""
    asking = asking_of(provider, pool)
    url, provider.url = provider.url, "http://somebody.example"
    browser = Browser(asking)
    for _ in range(3):
        heard = await browser.get("/login/openid")
        assert (heard.status, b"does not answer" in heard.body, b"Password" in heard.body) == (503, True, True)
    provider.url = url
    assert (await browser.get("/login/openid")).status == 503, "it was asked a moment ago"
    provider.now += RETRY_SECONDS
    assert (await browser.get("/login/openid")).status == 303


async def test_only_so_many_exchange_a_code_at_a_time(
    provider: Provider, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes then is asked to try again."""
    monkeypatch.setattr(single_sign_on, "AT_ONCE", 0)
    browser = Browser(asking_of(provider, pool))
    heard = await browser.get(await browser.signed_in_there())
    assert (heard.status, b"Too many people" in heard.body) == (503, True)


async def test_codes_are_not_guessed_for_long(
    provider: Provider, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fails counts for the address it comes from; what succeeds does not."""
    monkeypatch.setattr(sign_in, "FREE_FAILURES_OF_AN_ADDRESS", 3)
    browser = Browser(asking_of(provider, pool))
    for _ in range(5):
        assert (await browser.get(await browser.signed_in_there())).status == 303
    heard = [await browser.get(f"{BACK}?state=made+up&code=made+up") for _ in range(5)]
    assert [answer.status for answer in heard[:3]] == [400] * 3
    assert heard[-1].status == 429


async def test_a_browser_can_keep_where_somebody_wanted_to_go_or_he_goes_home(
    provider: Provider, pool: asyncpg.Pool
) -> None:
    """A cookie of more than four thousand bytes would be dropped, and nobody could sign in."""
    for next_, goes_on in (("/keys?first=1", "/keys?first=1"), ("/" + quote("ä") * 600, "/")):
        browser = Browser(asking_of(provider, pool))
        path = await browser.signed_in_there(quote(next_, safe="/%"))
        assert all(len(cookie.value) < 4000 for cookie in browser.cookies.values())
        assert (await browser.get(path)).headers["Location"] == goes_on


async def test_where_there_is_no_client_nobody_is_sent_away(pool: asyncpg.Pool) -> None:
    """The page does not offer it, and its paths are not there."""
    asking = Asking(pool)
    assert b"Sign in with" not in (await asking("GET", "/login")).body
    for path in ("/login/openid", f"{BACK}?code=x&state=y"):
        assert (await asking("GET", path)).status == 404


async def test_a_running_service_signs_people_in_there(provider: Provider) -> None:
    """As its configuration says, by real redirects."""
    terms = {"issuer": provider.url, "audience": AUDIENCE, "client_id": CLIENT, "client_secret": CLIENT_SECRET}
    with postgres.reachable_directory() as directory:
        config = directory / "config.yaml"
        upstream = {"openai": {"base_url": "${OPENAI_BASE_URL}", "api_key": "${OPENAI_API_KEY}"}}
        config.write_text(yaml.safe_dump({"registration": "open", "openid": terms, "providers": upstream}))
        config.chmod(0o644)
        async with service(directory, environment={"METERPROXY_CONFIG": str(config)}) as running:
            jar = aiohttp.CookieJar(unsafe=True)
            root = running.base_url.removesuffix("/v1")
            async with (
                aiohttp.ClientSession(cookie_jar=jar) as session,
                session.get(f"{root}/login/openid?next=/profile") as answer,
            ):
                assert (answer.status, answer.url.path) == (200, "/profile"), await answer.text()
                assert "Ann" in await answer.text()
            assert CLIENT_SECRET not in running.whole_log()
