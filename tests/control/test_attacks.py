"""People who want more than is theirs: what they try, and that nothing comes of it."""

import asyncio
import csv
import io
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest

from meterproxy.control.sign_in import FREE_REGISTRATIONS_OF_AN_ADDRESS
from meterproxy.control.spreadsheet import _cell
from meterproxy.core.limit import Measure
from meterproxy.core.limit_terms import LimitTerms
from meterproxy.core.role import Role
from meterproxy.core.window import WindowKind
from meterproxy.errors import Case, StoreUnavailable
from meterproxy.store.ids import new_id
from meterproxy.store.keys import Keys
from meterproxy.store.people import FREE_FAILURES
from tests.control.asking import ADMIN_TOKEN, PASSWORD, Asking, Heard, Person
from tests.dashboard.visitor import Visitor
from tests.ledger.bank import pool_of


@pytest.fixture
async def asking(database: str) -> AsyncIterator[Asking]:
    async with pool_of(database) as pool:
        yield Asking(pool)


def members(owner: Person, person: Person) -> str:
    return f"/api/organizations/{owner.organization_id}/members/{person.id}"


def there(owner: Person) -> str:
    return f"organization_id={owner.organization_id}"


async def joined(asking: Asking, owner: Person, name: str, role: Role) -> Person:
    person = await asking.person(name)
    await asking.joins(person, owner.organization_id, role)
    return person


async def key_of(asking: Asking, owner: Person, person: Person, **members: Any) -> Any:
    made = await asking("POST", f"/api/keys?{there(owner)}", {"name": "k", **members}, token=person.token)
    assert made.status == 201, made
    return made.body


# ── keys ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_key_reads_no_more_than_its_user_may(asking: Asking) -> None:
    """Who is made a member has no key any more that reads everybody's usage; who is trusted again has."""
    owner = await asking.person("owner")
    admin = await joined(asking, owner, "admin", Role.ADMIN)
    secret = (await key_of(asking, owner, admin, reads_usage=True))["key"]
    for role, case in (("member", Case.PERMISSION_DENIED), ("viewer", None)):
        assert (await asking("PATCH", members(owner, admin), {"role": role}, token=owner.token)).status == 200
        assert (await asking("GET", "/api/credits/transactions", token=secret)).case is case, role
        assert (await asking("GET", "/api/usage/stats", token=secret)).status == 200
    services = {"account_id": str(owner.account_id), "name": "costs", "reads_usage": True}
    made = await asking("POST", "/admin/keys", services, token=ADMIN_TOKEN)
    assert (await asking("GET", "/api/credits/transactions", token=made.body["key"])).status == 200


async def test_a_key_that_is_bound_to_networks_reads_nothing_from_elsewhere(asking: Asking) -> None:
    """Not on the data plane, nor what it has used."""
    owner = await asking.person("owner")
    secret = (await key_of(asking, owner, owner, networks=["203.0.113.0/24"]))["key"]
    assert (await asking("GET", "/api/credits/balance", token=secret)).case is Case.PERMISSION_DENIED


async def test_who_is_removed_while_he_makes_a_key_has_none(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new one, a rotated one, or one to chat with: whichever comes first, nothing works afterwards."""
    owner = await asking.person("owner")
    for number in range(6):
        person = await joined(asking, owner, f"person{number}", Role.MEMBER)
        old = await key_of(asking, owner, person)
        chat = asking.api._services.keys.chat_secret(owner.account_id, person.id, asking.tokens.key_secret)
        made, rotated, secret, removed = await asyncio.gather(
            asking("POST", f"/api/keys?{there(owner)}", {"name": "k"}, token=person.token),
            asking("POST", f"/api/keys/{old['id']}/rotate?{there(owner)}", {}, token=person.token),
            chat,
            asking("DELETE", members(owner, person), token=owner.token),
            return_exceptions=True,
        )
        assert isinstance(removed, Heard)
        assert removed.status == 204
        secrets = [heard.body["key"] for heard in (made, rotated) if isinstance(heard, Heard) and heard.body]
        for one in [*secrets, old["key"], *([secret] if isinstance(secret, str) else [])]:
            assert (await asking("GET", "/api/credits/balance", token=one)).case is Case.KEY_INVALID
        live = "SELECT count(*) FROM keys WHERE user_id = $1 AND account_id = $2 AND revoked_at IS NULL"
        assert await asking.pool.fetchval(live, person.id, owner.account_id) == 0


async def test_a_key_in_the_making_waits_for_a_removal_and_the_other_way_round(asking: Asking) -> None:
    """The membership is held while a key of it is made, so that neither misses the other."""
    owner = await asking.person("owner")
    person = await joined(asking, owner, "person", Role.MEMBER)
    old = await key_of(asking, owner, person)
    removing = "DELETE FROM memberships WHERE organization_id = $1 AND user_id = $2"
    async with asking.pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(removing, owner.organization_id, person.id)
        tries = [
            asyncio.create_task(asking("POST", f"/api/keys?{there(owner)}", {"name": "k"}, token=person.token)),
            asyncio.create_task(asking("POST", f"/api/keys/{old['id']}/rotate?{there(owner)}", {}, token=person.token)),
        ]
        done, _ = await asyncio.wait(tries, timeout=0.3)
        assert not done
        await transaction.commit()
    assert [(await one).case for one in tries] == [Case.NOT_FOUND, Case.NOT_FOUND]


async def test_a_chat_s_key_is_nobody_s_to_change_and_has_the_limits_of_every_key(asking: Asking) -> None:
    """Who rotates it would have a secret without the limits that new keys get; a revoked one is followed by another."""
    owner = await asking.person("owner")
    terms = LimitTerms(measure=Measure.REQUESTS, window=WindowKind.MINUTE, cap=7)
    keys = Keys(asking.pool, new_limits=(terms,))

    async def secret() -> str:
        return await keys.chat_secret(owner.account_id, owner.id, asking.tokens.key_secret)

    first, again = await asyncio.gather(secret(), secret())
    assert first == again == await secret()
    key_id = await asking.pool.fetchval("SELECT id FROM keys WHERE is_chat")
    assert await asking.pool.fetch("SELECT scope_id, cap FROM limits WHERE scope = 'key'") == [(key_id, 7)]
    there_is_none = [
        await asking("POST", f"/api/keys/{key_id}/rotate", {}, token=owner.token),
        await asking("PATCH", f"/api/keys/{key_id}", {"models": ["*"]}, token=owner.token),
    ]
    assert [heard.case for heard in there_is_none] == [Case.NOT_FOUND, Case.NOT_FOUND]
    assert (await asking("DELETE", f"/api/keys/{key_id}", token=owner.token)).status == 200
    second = await secret()
    assert second != first
    assert (await asking("GET", "/api/credits/balance", token=second)).status == 200


async def test_a_key_is_rotated_once_and_never_into_a_dead_one(asking: Asking) -> None:
    """A rotated key hands its end on to nobody, nor does an expired one; the latest is the one that goes on."""
    owner = await asking.person("owner")
    old = (await asking("POST", "/api/keys", {"name": "k"}, token=owner.token)).body
    rotate = {"grace_seconds": 3600}
    new = (await asking("POST", f"/api/keys/{old['id']}/rotate", rotate, token=owner.token)).body
    again = await asking("POST", f"/api/keys/{old['id']}/rotate", rotate, token=owner.token)
    assert again.case is Case.CONFLICT
    await asking.pool.execute("UPDATE keys SET expires_at = now() WHERE id = $1", UUID(new["id"]))
    assert (await asking("POST", f"/api/keys/{new['id']}/rotate", {}, token=owner.token)).case is Case.CONFLICT
    fresh = (await asking("POST", "/api/auth/refresh-api-key", {}, token=owner.token)).body
    assert fresh["name"] == "default"
    assert (await asking("GET", "/api/credits/balance", token=fresh["key"])).status == 200


# ── signing in ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_guessing_goes_no_faster_all_at_once(asking: Asking) -> None:
    """Of many guesses at the same time, no more are looked at than of as many one by one."""
    person = await asking.person("ann")

    async def guess() -> Heard:
        return await asking("POST", "/api/auth/login", {"email": person.email, "password": "a wrong one"})

    heard = await asyncio.gather(*(guess() for _ in range(24)))
    cases = [one.case for one in heard]
    assert cases.count(Case.WRONG_PASSWORD) == FREE_FAILURES + 1
    assert cases.count(Case.SIGN_IN_SLOWED) == 24 - FREE_FAILURES - 1
    change = {"old_password": "no", "new_password": "another long password"}
    tries = await asyncio.gather(*(asking("POST", "/api/auth/password", change, token=person.token) for _ in range(12)))
    assert [one.case for one in tries].count(Case.WRONG_PASSWORD) == FREE_FAILURES + 1


async def test_many_who_sign_in_rightly_from_one_address_are_no_guessers(asking: Asking) -> None:
    """Only what failed is counted."""
    person = await asking.person("ann")
    await asking("POST", "/api/auth/login", {"email": person.email, "password": "a wrong one"})
    await asking.pool.execute("UPDATE failed_logins SET failures = 49")
    await asking.pool.execute("DELETE FROM failed_logins WHERE subject = sha256(convert_to($1, 'UTF8'))",
                              f"email {person.email}")  # fmt: skip
    for _ in range(8):
        assert (await asking("POST", "/api/auth/login", {"email": person.email, "password": PASSWORD})).status == 200
    assert await asking.pool.fetchval("SELECT max(failures) FROM failed_logins") == 49


async def test_who_registers_again_and_again_is_slowed(asking: Asking) -> None:
    """Nobody fills a database, or asks which addresses are taken, faster than others guess; who was invited comes in."""
    owner = await asking.person("owner")
    await asking.pool.execute("UPDATE failed_logins SET failures = $1", FREE_REGISTRATIONS_OF_AN_ADDRESS)
    taken = {"username": "x", "email": owner.email, "password": PASSWORD}
    assert (await asking("POST", "/api/auth/register", taken)).case is Case.CONFLICT
    assert (await asking("POST", "/api/auth/register", taken)).case is Case.SIGN_IN_SLOWED
    path = f"/api/organizations/{owner.organization_id}/invitations"
    made = await asking("POST", path, {"email": "guest@example.com"}, token=owner.token)
    guest = {"username": "guest", "email": "guest@example.com", "password": PASSWORD}
    invited = {**guest, "invitation_token": made.body["invitation_token"]}
    assert (await asking("POST", "/api/auth/register", guest)).case is Case.SIGN_IN_SLOWED
    assert (await asking("POST", "/api/auth/register", invited)).status == 201


async def test_an_invitation_is_no_way_to_keep_everybody_hashing(asking: Asking) -> None:
    """By one invitation, too, it is tried ever more slowly whether its address is taken."""
    owner = await asking.person("owner")
    path = f"/api/organizations/{owner.organization_id}/invitations"
    made = await asking("POST", path, {"email": owner.email}, token=owner.token)
    taken = {"username": "x", "email": owner.email, "password": PASSWORD}
    taken["invitation_token"] = made.body["invitation_token"]
    cases = [(await asking("POST", "/api/auth/register", taken)).case for _ in range(FREE_FAILURES + 2)]
    assert cases == [Case.CONFLICT] * (FREE_FAILURES + 1) + [Case.SIGN_IN_SLOWED]


async def test_an_old_password_begins_no_log_in_that_outlives_its_change(asking: Asking) -> None:
    """Also where it was checked a moment before it was changed."""
    person = await asking.person("ann")
    people = asking.people
    found = await people.find(person.email)
    assert found is not None
    assert found.password_hash is not None
    await people.set_password(person.id, await asking.passwords.hash("another long password"))
    assert not await people.begin_login(new_id(), found, b"x" * 32, 60)


async def test_an_attempt_that_nobody_had_time_for_counts_for_nothing(
    asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is told to come again may do so."""
    person = await asking.person("ann")
    monkeypatch.setattr("meterproxy.control.passwords.MOST_WAITING", 0)
    for _ in range(FREE_FAILURES + 3):
        heard = await asking("POST", "/api/auth/login", {"email": person.email, "password": PASSWORD})
        assert heard.case is Case.OVERLOADED


# ── invitations ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_invitation_is_worth_what_whoever_made_it_may(asking: Asking) -> None:
    """Nobody who was removed, demoted or suspended comes back by an invitation that he has made before."""
    owner = await asking.person("owner")
    changes: list[tuple[str, Any]] = [
        ("DELETE", None), ("PATCH", {"role": "member"}), ("PATCH", {"role": "admin"}), ("suspend", None)
    ]  # fmt: skip
    for number, (change, body) in enumerate(changes):
        second = await joined(asking, owner, f"second{number}", Role.OWNER)
        other = await asking.person(f"other{number}")
        path = f"/api/organizations/{owner.organization_id}/invitations"
        made = await asking("POST", path, {"email": other.email, "role": "owner"}, token=second.token)
        if change == "suspend":
            await asking.people.suspend(second.id, suspended=True)
        else:
            assert (await asking(change, members(owner, second), body, token=owner.token)).status < 300
        secret = {"invitation_token": made.body["invitation_token"]}
        heard = await asking("POST", "/api/invitations/accept", secret, token=other.token)
        assert heard.case is Case.NOT_FOUND, change
    path = f"/api/organizations/{owner.organization_id}/invitations"
    guest = await asking.person("guest")
    made = await asking("POST", path, {"email": guest.email, "role": "owner"}, token=ADMIN_TOKEN)
    secret = {"invitation_token": made.body["invitation_token"]}
    assert (await asking("POST", "/api/invitations/accept", secret, token=guest.token)).status == 200


async def test_an_invitation_is_accepted_once_by_two_at_once(asking: Asking) -> None:
    """And makes one member."""
    owner, guest = await asking.person("owner"), await asking.person("guest")
    path = f"/api/organizations/{owner.organization_id}/invitations"
    made = await asking("POST", path, {"email": guest.email}, token=owner.token)
    secret = {"invitation_token": made.body["invitation_token"]}
    both = await asyncio.gather(
        *(asking("POST", "/api/invitations/accept", secret, token=guest.token) for _ in range(3))
    )
    assert sorted(heard.status for heard in both) == [200, 404, 404]


async def test_two_renewals_at_once_are_one(asking: Asking) -> None:
    """The other has come too late."""
    person = await asking.person("ann")
    both = await asyncio.gather(
        *(asking("POST", "/api/auth/renew", {"renewal_token": person.renewal}) for _ in range(3))
    )
    assert sorted(heard.status for heard in both) == [200, 401, 401]


async def test_whose_key_it_is_decides_who_touches_it(asking: Asking) -> None:
    """Of another organization it does not exist; of another member neither, but for who manages."""
    owner, stranger = await asking.person("owner"), await asking.person("stranger")
    ann, bob = [await joined(asking, owner, name, Role.MEMBER) for name in ("ann", "bob")]
    path = f"/api/keys/{(await key_of(asking, owner, ann))['id']}"
    for who in (bob, stranger):
        for about in ("", f"?{there(owner)}", f"?organization_id={who.organization_id}"):
            for method, suffix, body in (
                ("PATCH", "", {"name": "mine"}), ("DELETE", "", None), ("POST", "/rotate", {}), ("GET", "/usage", None)
            ):  # fmt: skip
                heard = await asking(method, f"{path}{suffix}{about}", body, token=who.token)
                assert heard.case is Case.NOT_FOUND, (who.email, method, about)
    assert (await asking("DELETE", f"{path}?{there(owner)}", token=owner.token)).status == 200


async def test_an_operator_works_in_no_organization_that_is_not_there(asking: Asking) -> None:
    """He may in any other; this one is told to be none."""
    owner, other = await asking.person("owner"), await asking.person("other")
    await asking.pool.execute("UPDATE users SET is_operator = true WHERE id = $1", owner.id)
    visitor = await Visitor.of(asking, owner)
    for organization_id, status in ((UUID(int=1), 404), (other.organization_id, 303), (owner.organization_id, 303)):
        assert (await visitor.post("/profile/organization", organization_id=str(organization_id))).status == status


async def test_odd_ids_and_texts_are_told_as_what_they_are(asking: Asking) -> None:
    """A 400 or 404 that names what is wrong, never a failure of ours."""
    owner = await asking.person("owner")
    odd = ["\ud800", "%ed%a0%80", "%00", "%ff", "x" * 5000, "'; DROP TABLE users; --", "0" * 400, "1e400", "-1", "²"]
    paths = [
        "/api/user/activity?cursor={}", "/api/user/activity?from={}", "/api/user/activity?model={}",
        "/api/user/activity?limit={}", "/api/user/activity?status={}", "/api/user/activity?conversation_id={}",
        "/api/credits/transactions?cursor={}", "/api/keys?cursor={}", "/api/usage/requests/{}",
        "/api/budgets/{}/status", "/api/admin/users?q={}", "/api/audit?actor={}", "/api/audit?cursor={}",
        "/v1/organization/costs?start_time={}", "/v1/organization/usage/completions?start_time=0&models={}",
        "/v1/organization/costs?start_time=0&page={}", "/api/usage/stats?days={}", "/api/usage/stats?userId={}",
        "/api/organizations/{}/members", "/api/keys?organization_id={}", "/api/prices/compare?input_tokens={}",
    ]  # fmt: skip
    await asking.pool.execute("UPDATE users SET is_operator = true WHERE id = $1", owner.id)
    about = f"organization_id={owner.organization_id}"
    for path in paths:
        for text in odd:
            url = path.format(text.encode("utf-8", "surrogatepass").decode("latin-1"))
            heard = await asking("GET", url if "organization_id" in url else f"{url}{'&' if '?' in url else '?'}{about}",
                                 token=owner.token)  # fmt: skip
            assert heard.status in {200, 400, 404}, (path, text)
    for instant in ("0001-01-01T00:00:00%2B14:00", "9999-12-31T23:59:59-14:00", "9e18"):
        for name in ("from", "to"):
            heard = await asking("GET", f"/api/user/activity?{name}={instant}", token=owner.token)
            assert heard.status in {200, 400}, instant
    cursors = ["0_0", "-62135596800000000_" + str(UUID(int=0)), "9" * 30 + "_" + str(UUID(int=0)), "_", "1_", "²_1"]
    for cursor in cursors:
        heard = await asking("GET", f"/api/user/activity?cursor={cursor}", token=owner.token)
        assert heard.status in {200, 400}, cursor


@pytest.mark.parametrize("instant", [
    "0001-01-01T00:00:00Z", "1969-12-31T23:59:59Z", "9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59-14:00",
    "0001-01-01T00:00:00+14:00",
])  # fmt: skip
async def test_no_key_ends_at_an_instant_that_no_page_can_show(asking: Asking, instant: str) -> None:
    """One member's key would take the page of keys from everybody in the organization."""
    owner = await asking.person("owner")
    key = await asking("POST", "/api/keys", {"name": "k", "expires_at": "9999-12-31T23:59:59Z"}, token=owner.token)
    assert key.status == 201
    for method, path in (("POST", "/api/keys"), ("PATCH", f"/api/keys/{key.body['id']}")):
        refused = await asking(method, path, {"name": "k", "expires_at": instant}, token=owner.token)
        assert (refused.status, refused.param) == (400, "expires_at")
    visitor = await Visitor.of(asking, owner)
    for path in ("/keys", f"/keys/{key.body['id']}"):
        assert (await visitor.get(path)).status == 200


FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "  =1", "＝1", '=HYPERLINK("http://x?"&A1,"x")']


async def test_no_cell_is_a_formula(asking: Asking) -> None:
    """Whatever people and clients name things, in each file there is."""
    cells = [await asking.pool.fetchval("SELECT csv_cell($1)", text) for text in FORMULAS]
    told = [next(csv.reader(io.StringIO(cell, newline="")))[0] for cell in cells]
    assert told == [f"'{text}" for text in FORMULAS]
    assert [_cell(text) for text in FORMULAS] == told
    for text in ("plain", "a=b", "1-1", "", 'say "so", twice'):
        cell = await asking.pool.fetchval("SELECT csv_cell($1)", text)
        assert next(csv.reader(io.StringIO(f"{cell},", newline="")))[0] == text == _cell(text)


async def test_a_file_that_cannot_be_read_is_an_error_not_an_empty_file(asking: Asking) -> None:
    """Nobody takes a database that is away for a month without usage."""
    owner = await asking.person("owner")

    def away(*_values: object, **_settings: object) -> None:
        raise StoreUnavailable("away")

    pool = asking.api._services.activity._pool
    asking.api._services.activity._pool = type("Away", (), {"acquire": away})()
    heard = await asking("GET", "/api/user/activity/export", token=owner.token)
    asking.api._services.activity._pool = pool
    assert heard.case is Case.UNAVAILABLE
