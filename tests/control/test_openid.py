"""Tokens of another issuer: whom they introduce, and what is none."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal
from urllib.parse import quote_plus

import asyncpg
import jwt
import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from yarl import URL

from meterproxy.config.openid import OpenIdTerms
from meterproxy.control import key_set
from meterproxy.control.issuer import DISCOVERY
from meterproxy.control.issuer import Issuer as Published
from meterproxy.control.key_set import KeySet
from meterproxy.control.openid import OpenId
from meterproxy.errors import ApiError, Case
from tests.control.asking import Asking
from tests.ledger.bank import pool_of

RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
AUDIENCE = "meterproxy-test"
CLIENT, CLIENT_SECRET = "meterproxy-pages", "of the client"


def published(kid: str, key: Any, **members: Any) -> dict[str, Any]:
    kind = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
    return {**kind.to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig", **members}


class Issuer:
    """An OpenID provider: it publishes keys and signs tokens. `now` is the clock of who fetches them."""

    def __init__(self) -> None:
        self.keys = [published("r1", RSA_KEY), published("e1", EC_KEY)]
        self.fetched = 0
        self.away = False
        self.silent: asyncio.Event | None = None
        """Set: it says nothing, and tells by this that it was asked."""
        self.now = 1000.0
        self.url = ""
        self.codes: dict[str, dict[str, str]] = {}
        """What was asked for with each code that was given and not exchanged yet."""
        self.told: dict[str, Any] = {}
        """What the next identity token says beside what it must."""

    async def discovery(self, _request: web.Request) -> web.Response:
        if self.silent is not None:
            self.silent.set()
            await asyncio.sleep(60)
        addresses = {"jwks_uri": "/keys", "authorization_endpoint": "/authorize", "token_endpoint": "/token"}
        return web.json_response({"issuer": self.url, **{name: self.url + path for name, path in addresses.items()}})

    async def authorize(self, request: web.Request) -> web.Response:
        """Somebody signs in at once, and is sent back."""
        asked, code = dict(request.query), f"code-{len(self.codes)}"
        self.codes[code] = asked
        back = URL(asked["redirect_uri"]).with_query(code=code, state=asked["state"], session_state="more")
        return web.Response(status=302, headers={"Location": str(back)})

    async def token_for(self, request: web.Request) -> web.Response:
        """An identity token for a code, once, to whoever can show that he has begun."""
        form = await request.post()
        asked = self.codes.pop(str(form["code"]), None)
        client = request.headers.get("Authorization", f"client {form.get('client_id')}")
        verified = base64.urlsafe_b64encode(hashlib.sha256(str(form["code_verifier"]).encode()).digest())
        if (
            asked is None
            or client not in {self.basic, f"client {CLIENT}"}
            or form["redirect_uri"] != asked["redirect_uri"]
            or verified.rstrip(b"=").decode() != asked["code_challenge"]
        ):
            return web.json_response({"error": "invalid_grant"}, status=400)
        token = self.token(**{"aud": CLIENT, "nonce": asked["nonce"], **self.told})
        return web.json_response({"id_token": token, "token_type": "Bearer"})

    @property
    def basic(self) -> str:
        return "Basic " + base64.b64encode(f"{quote_plus(CLIENT)}:{quote_plus(CLIENT_SECRET)}".encode()).decode()

    async def key_set(self, _request: web.Request) -> web.Response:
        self.fetched += 1
        return web.Response(status=500) if self.away else web.json_response({"keys": self.keys})

    def claims(self, **members: Any) -> dict[str, Any]:
        now = int(time.time())
        told = {"iss": self.url, "aud": AUDIENCE, "sub": "ann", "exp": now + 300, "iat": now, "name": "Ann", **members}
        return {name: value for name, value in told.items() if value is not None}

    def token(self, key: Any = RSA_KEY, kid: str = "r1", algorithm: str = "RS256", **members: Any) -> str:
        return jwt.encode(self.claims(**members), key, algorithm, headers={"kid": kid})

    def asking(self, pool: asyncpg.Pool, registration: Literal["open", "invitation", "closed"] = "open") -> Asking:
        terms = OpenIdTerms(issuer=self.url, audience=AUDIENCE)
        return Asking(pool, registration, lambda known: OpenId(terms, KeySet(self.url, None, lambda: self.now), known))


@asynccontextmanager
async def serving() -> AsyncIterator[Issuer]:
    issuer, app = Issuer(), web.Application()
    app.router.add_get(DISCOVERY, issuer.discovery)
    app.router.add_get("/keys", issuer.key_set)
    app.router.add_get("/authorize", issuer.authorize)
    app.router.add_post("/token", issuer.token_for)
    async with TestServer(app) as server:
        issuer.url = str(server.make_url("")).rstrip("/")
        yield issuer


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with serving() as issuer:
        yield issuer


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    async with pool_of(database) as pool:
        yield pool


async def me(asking: Asking, token: str) -> Any:
    return await asking("GET", "/api/auth/me", token=token)


async def test_who_comes_first_is_made_and_known_from_then_on(issuer: Issuer, pool: asyncpg.Pool) -> None:
    """By either kind of key, with one fetch for all; he owns an organization, and leaves a line in the audit log."""
    asking = issuer.asking(pool)
    first = await me(asking, issuer.token(email="ann@example.com", email_verified=True))
    assert (first.body["username"], first.body["email"]) == ("Ann", "ann@example.com")
    assert [place["role"] for place in first.body["organizations"]] == ["owner"]
    again = await me(asking, issuer.token(EC_KEY, "e1", "ES256", name="Ann B.", email="new@example.com"))
    assert again.body == first.body
    assert (await me(asking, issuer.token(sub="bob"))).body["id"] != first.body["id"]
    assert issuer.fetched == 1
    assert await pool.fetchval("SELECT count(*) FROM audit_log WHERE action = 'user.register'") == 2
    assert (await asking("POST", "/api/auth/logout", token=issuer.token())).status == 204


async def test_what_is_no_token_of_the_issuer_proves_nothing(issuer: Issuer, pool: asyncpg.Pool) -> None:
    """Not another's, for another, expired, unsigned, signed by a secret that everybody can read, or by a stray key."""
    asking, now = issuer.asking(pool), int(time.time())
    public = RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    header = {"kid": "r1"}
    stray = rsa.generate_private_key(65537, 2048)
    assert (await me(asking, issuer.token())).status == 200
    bad = [
        issuer.token(iss="https://somebody.example"),
        issuer.token(aud="somebody"),
        issuer.token(aud=None),
        issuer.token(exp=now - 3600),
        issuer.token(exp=None),
        issuer.token(nbf=now + 3600),
        issuer.token(sub=None),
        issuer.token(sub=""),
        issuer.token(sub="an\0n"),
        issuer.token(sub="a" * 300),
        issuer.token(stray),
        issuer.token(kid="unknown"),
        issuer.token(EC_KEY, "r1", "ES256"),
        issuer.token(RSA_KEY, "e1", "RS256"),
        issuer.token(algorithm="RS512"),
        issuer.token(algorithm="PS256"),
        jwt.encode(issuer.claims(), None, "none", headers=header),
        confused(issuer.claims(), public),
        issuer.token()[:-4] + "AAAA",
        issuer.token().rpartition(".")[0] + ".",
    ]
    for token in bad:
        assert (await me(asking, token)).case is Case.NOT_SIGNED_IN, token


def confused(claims: dict[str, Any], public: bytes) -> str:
    """A token whose secret is the issuer's public key; the library refuses to make one, so it is made by hand."""
    encode = jwt.utils.base64url_encode
    signed = encode(orjson.dumps({"alg": "HS256", "kid": "r1"})) + b"." + encode(orjson.dumps(claims))
    return (signed + b"." + encode(hmac.digest(public, signed, "sha256"))).decode()


async def test_a_key_that_is_new_is_fetched_and_strangers_have_nothing_fetched(
    issuer: Issuer, pool: asyncpg.Pool
) -> None:
    """Once a minute, however many ids somebody makes up."""
    asking = issuer.asking(pool)
    new = rsa.generate_private_key(65537, 2048)
    assert (await me(asking, issuer.token())).status == 200
    issuer.keys = [published("r2", new)]
    for number in range(5):
        assert (await me(asking, issuer.token(new, f"made up {number}"))).case is Case.NOT_SIGNED_IN
    assert issuer.fetched == 1, "the set is fresh"
    issuer.now += key_set.UNKNOWN_SECONDS
    assert (await me(asking, issuer.token(new, "r2"))).status == 200
    assert (await me(asking, issuer.token())).case is Case.NOT_SIGNED_IN, "the old key is gone"
    assert issuer.fetched == 2


async def test_nobody_who_is_known_waits_for_an_issuer_that_is_silent(issuer: Issuer) -> None:
    """Neither where a stranger's key has its keys fetched, nor where its document is to be fetched anew."""
    keys, about = KeySet(issuer.url, None, lambda: issuer.now), Published(issuer.url, lambda: issuer.now)
    asks: list[tuple[Callable[[], Awaitable[Any]], Callable[[], Awaitable[Any]]]] = [
        (lambda: keys.find("r1", "RS256"), lambda: keys.find("made up", "RS256")),
        (about.document, about.document),
    ]
    known = [await asked() for asked, _ in asks]
    issuer.silent, issuer.now = asyncio.Event(), issuer.now + key_set.KEPT_SECONDS
    for (asked, as_a_stranger), was in zip(asks, known, strict=True):
        issuer.silent.clear()
        waiting = asyncio.ensure_future(as_a_stranger())
        await asyncio.wait_for(issuer.silent.wait(), 2)
        assert await asyncio.wait_for(asked(), 1) == was is not None
        waiting.cancel()


async def test_keys_outlive_their_issuer_for_a_day(issuer: Issuer, pool: asyncpg.Pool) -> None:
    """While it is away nobody is sent away who was known; after that, and without any keys, it is our fault: 503."""
    asking = issuer.asking(pool)
    issuer.away = True
    for _ in range(3):
        assert (await me(asking, issuer.token())).case is Case.UNAVAILABLE
    assert issuer.fetched == 1
    issuer.away = False
    issuer.now += key_set.RETRY_SECONDS
    assert (await me(asking, issuer.token())).status == 200
    issuer.away = True
    issuer.now += key_set.KEPT_SECONDS
    assert (await me(asking, issuer.token())).status == 200
    issuer.now += key_set.STALE_SECONDS
    assert (await me(asking, issuer.token())).case is Case.UNAVAILABLE


async def test_registration_holds_for_those_who_are_introduced(issuer: Issuer, pool: asyncpg.Pool) -> None:
    """Closed is closed; an invitation must be for the address that the issuer has verified."""
    closed, invited = issuer.asking(pool, "closed"), issuer.asking(pool, "invitation")
    verified = {"email": "ann@example.com", "email_verified": True}
    assert (await me(closed, issuer.token(**verified))).case is Case.PERMISSION_DENIED
    assert (await me(invited, issuer.token(**verified))).case is Case.PERMISSION_DENIED
    owner = await Asking(pool).person("owner")
    body = {"email": "Ann@Example.com", "role": "member"}
    path = f"/api/organizations/{owner.organization_id}/invitations"
    secret = (await invited("POST", path, body, token=owner.token)).body["invitation_token"]
    for told in ({}, {"email": "ann@example.com"}, {**verified, "email_verified": "true"}):
        assert (await me(invited, issuer.token(**told))).case is Case.PERMISSION_DENIED
    assert (await me(invited, issuer.token(**verified))).status == 200
    token = issuer.token()
    joined = await invited("POST", "/api/invitations/accept", {"invitation_token": secret}, token=token)
    assert joined.status == 200
    assert len((await me(closed, token)).body["organizations"]) == 2, "who is known stays known"


async def test_a_verified_address_is_its_users_where_nobody_can_have_taken_it(
    issuer: Issuer, pool: asyncpg.Pool
) -> None:
    """Where anybody may have registered it, or had himself invited under it, a password stays another's; operators are
    never linked."""
    ann, boss = await Asking(pool).person("ann"), await Asking(pool).person("boss")
    await pool.execute("UPDATE users SET is_operator = true WHERE id = $1", boss.id)
    open_, closed = issuer.asking(pool, "open"), issuer.asking(pool, "closed")
    verified = {"email": ann.email.upper(), "email_verified": True}
    assert (await me(open_, issuer.token(**verified))).case is Case.PERMISSION_DENIED
    assert (await me(issuer.asking(pool, "invitation"), issuer.token(**verified))).case is Case.PERMISSION_DENIED
    assert (await me(closed, issuer.token(email=ann.email))).case is Case.PERMISSION_DENIED, "not verified"
    operator = issuer.token(sub="boss", email=boss.email, email_verified=True)
    assert (await me(closed, operator)).case is Case.PERMISSION_DENIED
    assert (await me(closed, issuer.token(**verified))).body["id"] == str(ann.id)
    assert (await me(open_, issuer.token())).body["id"] == str(ann.id)
    await pool.execute("UPDATE users SET suspended_at = now() WHERE id = $1", ann.id)
    assert (await me(open_, issuer.token())).case is Case.NOT_SIGNED_IN


@pytest.mark.parametrize("registration", ["open", "closed"])
async def test_who_was_given_the_address_of_one_who_has_left_is_another(
    issuer: Issuer, pool: asyncpg.Pool, registration: Literal["open", "closed"]
) -> None:
    """An issuer that names two subjects says that they are two."""
    verified = {"email": "ann@example.com", "email_verified": True}
    ann = await me(issuer.asking(pool), issuer.token(**verified))
    asking = issuer.asking(pool, registration)
    assert (await me(asking, issuer.token(sub="another-ann", **verified))).case is Case.PERMISSION_DENIED
    assert (await me(asking, issuer.token(**verified))).body["id"] == ann.body["id"]


async def test_nobody_takes_an_address_by_inviting_it(issuer: Issuer, pool: asyncpg.Pool) -> None:
    """Whoever has made up a user under another's address, by his own invitation, does not find him there later."""
    invited = issuer.asking(pool, "invitation")
    mallory = await Asking(pool).person("mallory")
    path, address = f"/api/organizations/{mallory.organization_id}/invitations", "boss@example.com"
    secret = (await invited("POST", path, {"email": address}, token=mallory.token)).body["invitation_token"]
    made_up = {"username": "Boss", "email": address, "password": "known to mallory", "invitation_token": secret}
    assert (await invited("POST", "/api/auth/register", made_up)).status == 201
    refused = await me(invited, issuer.token(sub="boss", email=address, email_verified=True))
    assert refused.case is Case.PERMISSION_DENIED


@pytest.mark.parametrize("document", [
    [], {"keys": "none"}, {"keys": [{"kty": "oct", "kid": "r1", "k": "c2VjcmV0"}, 7, {"kty": "RSA", "kid": "r1"}]},
    {"keys": [published("r1", RSA_KEY, use="enc")]}, {"keys": [published("r1", RSA_KEY, alg="RS512")]},
    {"keys": [published("e1", ec.generate_private_key(ec.SECP384R1()))]}, {"keys": [{"kty": "x" * 600_000}]},
])  # fmt: skip
async def test_a_set_of_other_things_has_no_keys(document: Any) -> None:
    """Secrets, keys for other uses and on other curves, and what is no set at all serve nobody."""

    async def answered(_request: web.Request) -> web.Response:
        return web.json_response(document)

    app = web.Application()
    app.router.add_get("/other", answered)
    async with TestServer(app) as server:
        keys = KeySet("https://issuer.example", str(server.make_url("/other")), lambda: 1000.0)
        for kid, algorithm in (("r1", "RS256"), ("e1", "ES256")):
            found = None
            with contextlib.suppress(ApiError):
                found = await keys.find(kid, algorithm)
            assert found is None
