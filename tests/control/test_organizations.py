"""Organizations: who belongs to them, who is invited, and that there is always an owner."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
import pytest

from meterproxy.core.role import Role
from meterproxy.errors import Case
from tests.control.asking import PASSWORD, Asking, Heard, Person
from tests.control.history import history
from tests.dashboard.visitor import Visitor
from tests.ledger.bank import pool_of


@pytest.fixture
async def asking(database: str) -> AsyncIterator[Asking]:
    async with pool_of(database) as pool:
        yield Asking(pool)


def members(owner: Person, person: Person | None = None) -> str:
    path = f"/api/organizations/{owner.organization_id}/members"
    return path if person is None else f"{path}/{person.id}"


async def invited(asking: Asking, by: Person, email: str, role: str = "member") -> Heard:
    path = f"/api/organizations/{by.organization_id}/invitations"
    return await asking("POST", path, {"email": email, "role": role}, token=by.token)


async def test_from_an_invitation_to_a_member_and_out_again(asking: Asking) -> None:
    """He works in both organizations while he belongs to both; his keys end with his membership."""
    owner, guest = await asking.person("owner"), await asking.person("guest")
    made = await invited(asking, owner, guest.email.upper())
    assert made.status == 201
    accepted = await asking(
        "POST", "/api/invitations/accept", {"invitation_token": made.body["invitation_token"]}, token=guest.token
    )
    assert accepted.body == {"organization_id": str(owner.organization_id)}
    roles = (await asking("GET", "/api/organizations", token=guest.token)).body["data"]
    assert {(one["id"], one["role"]) for one in roles} == {
        (str(guest.organization_id), "owner"),
        (str(owner.organization_id), "member"),
    }
    there = f"?organization_id={owner.organization_id}"
    key = (await asking("POST", f"/api/keys{there}", {"name": "his"}, token=guest.token)).body
    assert key["account_id"] == str(owner.account_id)
    listed = (await asking("GET", members(owner), token=owner.token)).body["data"]
    assert {one["email"]: one["role"] for one in listed} == {owner.email: "owner", guest.email: "member"}
    assert (await asking("PATCH", members(owner, guest), {"role": "viewer"}, token=owner.token)).body[
        "role"
    ] == "viewer"
    assert (await asking("POST", f"/api/keys{there}", {"name": "x"}, token=guest.token)).case is Case.PERMISSION_DENIED
    assert (await asking("DELETE", members(owner, guest), token=owner.token)).status == 204
    assert (await asking("GET", f"/api/keys{there}", token=guest.token)).case is Case.NOT_FOUND
    assert (await asking("GET", "/api/credits/balance", token=key["key"])).case is Case.KEY_INVALID


async def test_an_invitation_is_for_one_and_works_once(asking: Asking) -> None:
    """Not for another address, not twice, not when it was withdrawn or is over; its secret is told once."""
    owner, guest, other = [await asking.person(name) for name in ("owner", "guest", "other")]

    async def accept(person: Person, secret: str) -> Heard:
        return await asking("POST", "/api/invitations/accept", {"invitation_token": secret}, token=person.token)

    secret = (await invited(asking, owner, guest.email)).body["invitation_token"]
    assert (await accept(other, secret)).case is Case.NOT_FOUND
    assert (await accept(guest, "guessed")).case is Case.NOT_FOUND
    assert (await accept(guest, secret)).status == 200
    assert (await accept(guest, secret)).case is Case.NOT_FOUND
    withdrawn = (await invited(asking, owner, other.email)).body
    path = f"/api/organizations/{owner.organization_id}/invitations"
    assert (await asking("DELETE", f"{path}/{withdrawn['id']}", token=owner.token)).body["withdrawn_at"] is not None
    assert (await accept(other, withdrawn["invitation_token"])).case is Case.NOT_FOUND
    late = (await invited(asking, owner, other.email)).body
    await asking.pool.execute("UPDATE invitations SET expires_at = now() WHERE accepted_at IS NULL")
    assert (await accept(other, late["invitation_token"])).case is Case.NOT_FOUND
    listed = (await asking("GET", path, token=owner.token)).body["data"]
    assert len(listed) == 3
    assert all("invitation_token" not in one for one in listed)


async def test_there_is_always_an_owner(asking: Asking) -> None:
    """The last one neither leaves nor becomes less, also where two try at once; and only owners make owners."""
    owner, second, admin = [await asking.person(name) for name in ("owner", "second", "admin")]
    await asking.joins(admin, owner.organization_id, Role.ADMIN)
    for change in (("PATCH", {"role": "admin"}), ("DELETE", None)):
        assert (await asking(change[0], members(owner, owner), change[1], token=owner.token)).case is Case.CONFLICT
        assert (
            await asking(change[0], members(owner, owner), change[1], token=admin.token)
        ).case is Case.PERMISSION_DENIED
    promote: dict[str, Any] = {"role": "owner"}
    assert (await asking("PATCH", members(owner, admin), promote, token=admin.token)).case is Case.PERMISSION_DENIED
    own = f"/api/organizations/{owner.organization_id}/invitations"
    body = {"email": "x@example.com", "role": "owner"}
    assert (await asking("POST", own, body, token=admin.token)).case is Case.PERMISSION_DENIED
    await asking.joins(second, owner.organization_id, Role.OWNER)
    both = await asyncio.gather(
        asking("DELETE", members(owner, owner), token=owner.token),
        asking("DELETE", members(owner, second), token=second.token),
    )
    assert sorted(heard.status for heard in both) == [204, 409]


async def test_organizations_and_teams_are_renamed(asking: Asking) -> None:
    """By those who manage them; a name that is taken is refused, and the audit trail has both names."""
    owner = await asking.person("owner")
    path = f"/api/organizations/{owner.organization_id}"
    assert (await asking("PATCH", path, {"name": "Acme"}, token=owner.token)).body == {
        "id": str(owner.organization_id), "name": "Acme",
    }  # fmt: skip
    assert (await asking("PATCH", path, {"name": " "}, token=owner.token)).case is Case.MALFORMED
    (listed,) = (await asking("GET", "/api/organizations", token=owner.token)).body["data"]
    assert listed["name"] == "Acme"
    one, _ = [await asking("POST", f"{path}/teams", {"name": name}, token=owner.token) for name in ("one", "two")]
    team = f"{path}/teams/{one.body['id']}"
    assert (await asking("PATCH", team, {"name": "two"}, token=owner.token)).case is Case.CONFLICT
    assert (await asking("PATCH", team, {"name": "three"}, token=owner.token)).body["name"] == "three"
    rows = await asking.pool.fetch(
        "SELECT detail::text AS told FROM audit_log WHERE action IN ('account.change', 'team.rename') ORDER BY id"
    )
    assert [orjson.loads(row["told"]) for row in rows] == [
        {"name": "Acme", "name_before": "owner"}, {"name": "three", "name_before": "one"},
    ]  # fmt: skip


async def test_a_removed_team_leaves_what_it_was(asking: Asking) -> None:
    """Its budgets end, its keys go on and may be rotated and moved, no key joins it, and what it used is still its own."""
    owner, stranger = await asking.person("owner"), await asking.person("stranger")
    path = f"/api/organizations/{owner.organization_id}/teams"
    team = (await asking("POST", path, {"name": "one"}, token=owner.token)).body
    new = {"name": "k", "team_id": team["id"]}
    key = (await asking("POST", "/api/keys", new, token=owner.token)).body
    budget = {"scope": "team", "scope_id": team["id"], "measure": "amount", "window": "month", "cap": "5.00"}
    assert (await asking("POST", "/api/budgets", budget, token=owner.token)).status == 201
    await history(asking.pool, [UUID(key["id"])], rows=20)
    theirs = f"/api/organizations/{stranger.organization_id}/teams/{team['id']}"
    assert (await asking("DELETE", theirs, token=stranger.token)).case is Case.NOT_FOUND
    assert (await asking("DELETE", f"{path}/{team['id']}", token=owner.token)).status == 204
    assert (await asking("DELETE", f"{path}/{team['id']}", token=owner.token)).case is Case.NOT_FOUND
    assert (await asking("GET", path, token=owner.token)).body["data"] == []
    assert (await asking("GET", "/api/budgets", token=owner.token)).body["data"] == []
    assert (await asking("POST", "/api/budgets", budget, token=owner.token)).case is Case.NOT_FOUND
    assert (await asking("POST", "/api/keys", new, token=owner.token)).case is Case.NOT_FOUND
    first = (datetime.now(UTC) - timedelta(days=60)).date()
    used = await asking("GET", f"/api/credits/usage?group_by=team&from={first}", token=owner.token)
    assert [(group["name"], group["requests"]) for group in used.body["groups"]] == [("one (removed)", 20)]
    renamed = await asking("PATCH", f"/api/keys/{key['id']}", {"name": "still"}, token=owner.token)
    assert (renamed.body["name"], renamed.body["team_id"]) == ("still", team["id"])
    rotated = await asking("POST", f"/api/keys/{key['id']}/rotate", {}, token=owner.token)
    again = (await asking("POST", path, {"name": "one"}, token=owner.token)).body
    moved = await asking("PATCH", f"/api/keys/{rotated.body['id']}", {"team_id": again["id"]}, token=owner.token)
    assert moved.body["team_id"] == again["id"]
    visitor = await Visitor.of(asking, owner)
    assert "one that was removed" in (await visitor.get(f"/keys/{key['id']}")).body.decode()


async def test_registering_by_invitation_only(database: str) -> None:
    """Whoever has none, or one of somebody else, stays outside; whoever has one is a member at once."""
    async with pool_of(database) as pool:
        owner = await Asking(pool).person("owner")
        asking = Asking(pool, "invitation")
        secret = (await invited(asking, owner, "guest@example.com", "viewer")).body["invitation_token"]
        guest = {"username": "guest", "email": "guest@example.com", "password": PASSWORD}
        assert (await asking("POST", "/api/auth/register", guest)).case is Case.PERMISSION_DENIED
        other = {**guest, "email": "other@example.com", "invitation_token": secret}
        assert (await asking("POST", "/api/auth/register", other)).case is Case.PERMISSION_DENIED
        assert (await asking("POST", "/api/auth/register", {**guest, "invitation_token": secret})).status == 201
        signed = await asking("POST", "/api/auth/login", {"email": guest["email"], "password": PASSWORD})
        listed = (await asking("GET", "/api/organizations", token=signed.body["access_token"])).body["data"]
        assert {one["role"] for one in listed} == {"owner", "viewer"}
