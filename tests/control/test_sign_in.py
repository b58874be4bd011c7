"""Signing in: tokens that prove something, log-ins that end, and guesses that get slower."""

import time
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import jwt
import pytest

from meterproxy.control import passwords
from meterproxy.control.passwords import Passwords
from meterproxy.control.tokens import ACCESS_SECONDS, ALGORITHM, AUDIENCE, ISSUER, Claim
from meterproxy.errors import ApiError, Case
from meterproxy.store.people import FREE_FAILURES, tidy_people
from tests.control.asking import PASSWORD, SECRET, Asking
from tests.ledger.bank import pool_of


@pytest.fixture
async def asking(database: str) -> AsyncIterator[Asking]:
    async with pool_of(database) as pool:
        yield Asking(pool)


async def test_from_registering_to_signing_out(asking: Asking) -> None:
    """Who registers owns an organization of his own; what he signed in with is worth nothing when he has left."""
    person = await asking.person("ann")
    me = await asking("GET", "/api/auth/me", token=person.token)
    assert me.body["username"] == "ann"
    assert [place["role"] for place in me.body["organizations"]] == ["owner"]
    balance = await asking("GET", "/api/credits/balance", token=person.token)
    assert (balance.body["balance"], balance.body["currency"]) == ("0.00", "USD")
    assert (await asking("POST", "/api/auth/logout", token=person.token)).status == 204
    assert (await asking("GET", "/api/auth/me", token=person.token)).case is Case.NOT_SIGNED_IN
    assert (await asking("POST", "/api/auth/renew", {"renewal_token": person.renewal})).case is Case.NOT_SIGNED_IN


async def test_a_renewal_works_once(asking: Asking) -> None:
    """Whoever finds an old one has found nothing."""
    person = await asking.person("ann")
    renewed = await asking("POST", "/api/auth/renew", {"renewal_token": person.renewal})
    assert (await asking("GET", "/api/auth/me", token=renewed.body["access_token"])).status == 200
    assert (await asking("POST", "/api/auth/renew", {"renewal_token": person.renewal})).case is Case.NOT_SIGNED_IN
    again = await asking("POST", "/api/auth/renew", {"renewal_token": renewed.body["renewal_token"]})
    assert again.status == 200


async def test_a_used_renewal_that_comes_again_ends_the_log_in(asking: Asking) -> None:
    """Whoever of the two was not to have it is out; programs that came at once are not taken for two people."""
    person = await asking.person("ann")
    renewals = [person.renewal]
    for _ in range(3):
        renewed = await asking("POST", "/api/auth/renew", {"renewal_token": renewals[-1]})
        renewals.append(renewed.body["renewal_token"])
    token = renewed.body["access_token"]
    again = {"renewal_token": renewals[1]}
    assert (await asking("POST", "/api/auth/renew", again)).case is Case.NOT_SIGNED_IN
    assert (await asking("GET", "/api/auth/me", token=token)).status == 200, "it was renewed just now"
    await asking.pool.execute("UPDATE logins SET expires_at = expires_at - interval '1 minute'")
    for forged in (renewals[1][:-1] + "x", f"{'x' * 43}.{UUID(int=0).hex}.{'0' * 64}", "x", "..", "é" * 100):
        assert (await asking("POST", "/api/auth/renew", {"renewal_token": forged})).case is Case.NOT_SIGNED_IN
    assert (await asking("GET", "/api/auth/me", token=token)).status == 200, "nobody ends what is not his"
    assert (await asking("POST", "/api/auth/renew", again)).case is Case.NOT_SIGNED_IN
    assert (await asking("GET", "/api/auth/me", token=token)).case is Case.NOT_SIGNED_IN
    assert (await asking("POST", "/api/auth/renew", {"renewal_token": renewals[-1]})).case is Case.NOT_SIGNED_IN


async def test_a_changed_password_ends_all_other_log_ins(asking: Asking) -> None:
    """The one that changed it stays; the old password is nobody's."""
    person = await asking.person("ann")
    other = await asking("POST", "/api/auth/login", {"email": person.email, "password": PASSWORD})
    change = {"old_password": PASSWORD, "new_password": "another long password"}
    wrong = await asking("POST", "/api/auth/password", {**change, "old_password": "no"}, token=person.token)
    assert (wrong.case, wrong.param) == (Case.WRONG_PASSWORD, "old_password")
    assert (await asking("POST", "/api/auth/password", change, token=person.token)).status == 204
    assert (await asking("GET", "/api/auth/me", token=person.token)).status == 200
    assert (await asking("GET", "/api/auth/me", token=other.body["access_token"])).case is Case.NOT_SIGNED_IN
    old = await asking("POST", "/api/auth/login", {"email": person.email, "password": PASSWORD})
    assert old.case is Case.WRONG_PASSWORD
    new = await asking("POST", "/api/auth/login", {"email": person.email, "password": "another long password"})
    assert new.status == 200


async def test_who_is_suspended_is_out_at_once(asking: Asking) -> None:
    """By token, by renewal and by password, without a word that he is known."""
    person = await asking.person("ann")
    await asking.pool.execute("UPDATE users SET suspended_at = now() WHERE id = $1", person.id)
    assert (await asking("GET", "/api/auth/me", token=person.token)).case is Case.NOT_SIGNED_IN
    assert (await asking("POST", "/api/auth/renew", {"renewal_token": person.renewal})).case is Case.NOT_SIGNED_IN
    heard = await asking("POST", "/api/auth/login", {"email": person.email, "password": PASSWORD})
    assert heard.case is Case.WRONG_PASSWORD


async def test_only_tokens_of_ours_are_taken(asking: Asking) -> None:
    """Not one without a signature, with another's key, for somebody else, expired, or that lacks a claim."""
    person = await asking.person("ann")
    good = jwt.decode(person.token, SECRET, algorithms=[ALGORITHM], audience=AUDIENCE)
    assert 0 < good["exp"] - time.time() <= ACCESS_SECONDS
    bad = [
        jwt.encode(good, None, "none"),
        jwt.encode(good, "another secret that is long enough to be one", ALGORITHM),
        jwt.encode(good, SECRET, "HS512"),
        jwt.encode({**good, "aud": "somebody"}, SECRET, ALGORITHM),
        jwt.encode({**good, "iss": "somebody"}, SECRET, ALGORITHM),
        jwt.encode({**good, "exp": int(time.time()) - 1}, SECRET, ALGORITHM),
        jwt.encode({**good, "sid": str(uuid4())}, SECRET, ALGORITHM),
        jwt.encode({**good, "sub": "ann"}, SECRET, ALGORITHM),
        *(jwt.encode({k: v for k, v in good.items() if k != name}, SECRET, ALGORITHM) for name in good),
        person.token[:-2],
        "e30.e30.",
        "x" * 10_000,
        "",
    ]
    for token in bad:
        assert (await asking("GET", "/api/auth/me", token=token)).case is Case.NOT_SIGNED_IN, token
    assert jwt.encode(good, SECRET, ALGORITHM) == person.token
    assert (good["iss"], good["aud"]) == (ISSUER, AUDIENCE)


async def test_a_token_of_somebody_elses_log_in_is_nobodys(asking: Asking) -> None:
    """A log-in belongs to one user."""
    ann, bob = await asking.person("ann"), await asking.person("bob")
    sid = jwt.decode(bob.token, SECRET, algorithms=[ALGORITHM], audience=AUDIENCE)["sid"]
    mixed = asking.tokens.make(Claim(ann.id, UUID(sid)), int(time.time()))
    assert (await asking("GET", "/api/auth/me", token=mixed)).case is Case.NOT_SIGNED_IN


async def test_guessing_gets_slower_for_whom_it_is_about(asking: Asking) -> None:
    """The right password does not help then either, and others are not hindered."""
    ann, bob = await asking.person("ann"), await asking.person("bob")
    for _ in range(FREE_FAILURES + 1):
        heard = await asking("POST", "/api/auth/login", {"email": ann.email.upper(), "password": "a wrong one"})
        assert heard.case is Case.WRONG_PASSWORD
    heard = await asking("POST", "/api/auth/login", {"email": ann.email, "password": PASSWORD})
    assert heard.case is Case.SIGN_IN_SLOWED
    assert int(heard.headers["Retry-After"]) >= 1
    assert (await asking("POST", "/api/auth/login", {"email": bob.email, "password": PASSWORD})).status == 200
    await asking.pool.execute("UPDATE failed_logins SET blocked_until = now() - interval '1 second'")
    assert (await asking("POST", "/api/auth/login", {"email": ann.email, "password": PASSWORD})).status == 200
    assert await asking.pool.fetchval("SELECT max(failures) FROM failed_logins") == FREE_FAILURES + 1, "the address's"


async def test_who_is_unknown_shows_neither_by_words_nor_by_work(
    asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hash is checked for nobody, too."""
    person = await asking.person("ann")
    checked: list[str | None] = []
    verify = Passwords._verify

    def counted(self: Passwords, password: str, stored: str | None) -> bool:
        checked.append(stored)
        return verify(self, password, stored)

    monkeypatch.setattr(Passwords, "_verify", counted)
    known = await asking("POST", "/api/auth/login", {"email": person.email, "password": "a wrong one"})
    unknown = await asking("POST", "/api/auth/login", {"email": "nobody@example.com", "password": "a wrong one"})
    assert (known.case, known.message) == (unknown.case, unknown.message)
    assert [stored is None for stored in checked] == [False, True]
    assert asking.passwords._nobody is not None


async def test_an_e_mail_is_taken_once(asking: Asking) -> None:
    """However it is written; and nothing is left of the attempt."""
    await asking.person("ann")
    before = await asking.pool.fetchval("SELECT count(*) FROM organizations")
    body = {"username": "other", "email": "ANN@example.com", "password": PASSWORD}
    heard = await asking("POST", "/api/auth/register", body)
    assert (heard.case, heard.param) == (Case.CONFLICT, "email")
    assert await asking.pool.fetchval("SELECT count(*) FROM organizations") == before


@pytest.mark.parametrize(
    ("param", "body"),
    [
        ("password", {"username": "a", "email": "a@b", "password": "too short"}),
        ("password", {"username": "a", "email": "a@b", "password": "x" * 201}),
        ("password", {"username": "a", "email": "a@b"}),
        ("email", {"username": "a", "email": "nobody", "password": PASSWORD}),
        ("email", {"username": "a", "email": "a b@c", "password": PASSWORD}),
        ("email", {"username": "a", "email": "a@b\0", "password": PASSWORD}),
        ("username", {"username": "", "email": "a@b", "password": PASSWORD}),
        ("role", {"username": "a", "email": "a@b", "password": PASSWORD, "role": "owner"}),
        ("is_operator", {"username": "a", "email": "a@b", "password": PASSWORD, "is_operator": True}),
    ],
)
async def test_who_registers_says_what_is_asked_and_no_more(asking: Asking, param: str, body: object) -> None:
    """Nobody makes himself what he is not."""
    heard = await asking("POST", "/api/auth/register", body)
    assert (heard.case, heard.param) == (Case.MALFORMED, param)


async def test_registration_may_be_closed(database: str) -> None:
    """As it is until an operator opens it."""
    async with pool_of(database) as pool:
        body = {"username": "a", "email": "a@b", "password": PASSWORD}
        assert (await Asking(pool, "closed")("POST", "/api/auth/register", body)).case is Case.PERMISSION_DENIED
        assert await pool.fetchval("SELECT count(*) FROM users") == 0


async def test_a_key_of_ones_own_and_what_the_log_says_of_it(asking: Asking) -> None:
    """Its secret is told once; whose it is and who made it can be read; its holder sees the balance it spends."""
    person = await asking.person("ann")
    made = await asking("POST", "/api/keys", {"name": "laptop", "highest_request": "0.10"}, token=person.token)
    assert (made.status, made.body["user_id"]) == (201, str(person.id))
    (listed,) = (await asking("GET", "/api/keys", token=person.token)).body["data"]
    assert "key" not in listed
    assert listed["id"] == made.body["id"]
    assert (await asking("GET", "/api/credits/balance", token=made.body["key"])).status == 200
    rotated = await asking("POST", f"/api/keys/{made.body['id']}/rotate", {"grace_seconds": 60}, token=person.token)
    for secret in (made.body["key"], rotated.body["key"]):
        assert (await asking("GET", "/api/credits/balance", token=secret)).status == 200
    assert (await asking("DELETE", f"/api/keys/{rotated.body['id']}", token=person.token)).status == 200
    assert (await asking("GET", "/api/credits/balance", token=rotated.body["key"])).case is Case.KEY_INVALID
    rows = await asking.pool.fetch("SELECT action, actor FROM audit_log WHERE subject_kind = 'key' ORDER BY id")
    assert {row["actor"] for row in rows} == {f"user {person.id}"}
    assert [row["action"] for row in rows] == ["key.create", "key.rotate", "key.revoke"]


async def test_a_password_is_hashed_as_dearly_as_recommended() -> None:
    """OWASP's cheat sheet on storing passwords: argon2id with 19 MiB and two passes."""
    hashed = await Passwords().hash("something long")
    assert hashed.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert await Passwords().check("something long", hashed)


async def test_only_so_many_passwords_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes then is told to come again; a worker's memory is not filled with hashes."""
    monkeypatch.setattr(passwords, "MOST_WAITING", 0)
    with pytest.raises(ApiError) as refused:
        await Passwords().hash("something long")
    assert refused.value.case is Case.OVERLOADED


async def test_what_is_long_over_is_forgotten(asking: Asking) -> None:
    """Log-ins a month after their end, failures after a day."""
    person = await asking.person("ann")
    await asking("POST", "/api/auth/login", {"email": person.email, "password": "a wrong one"})
    await tidy_people(asking.pool)
    assert await asking.pool.fetchval("SELECT count(*) FROM logins") == 1
    assert await asking.pool.fetchval("SELECT count(*) FROM failed_logins") == 3
    await asking.pool.execute("UPDATE logins SET expires_at = now() - interval '31 days'")
    await asking.pool.execute("UPDATE failed_logins SET failed_at = now() - interval '25 hours'")
    await tidy_people(asking.pool)
    assert await asking.pool.fetchval("SELECT count(*) FROM logins") == 0
    assert await asking.pool.fetchval("SELECT count(*) FROM failed_logins") == 0
