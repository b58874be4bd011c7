"""Every route × everybody who may ask × the own and a foreign organization."""

import re
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest

from meterproxy.control.access import Permission, is_of_organization
from meterproxy.control.route import Route
from meterproxy.control.routes import ROUTES
from meterproxy.core.role import Role
from meterproxy.errors import Case
from tests.control.asking import ADMIN_TOKEN, Asking, Person
from tests.ledger.bank import pool_of

EVERYBODY = {"owner", "admin", "billing", "member", "viewer", "key", "operator", "admin token", "nobody"}
USERS = {role.value for role in Role} | {"operator"}
OPERATORS = {"operator", "admin token"}
MAY = {
    Permission.OPEN: EVERYBODY,
    Permission.SIGNED_IN: USERS,
    Permission.READ_OWN: EVERYBODY - {"nobody"},
    Permission.READ_OWN_KEYS: EVERYBODY - {"nobody", "key"},
    Permission.READ_NOTIFICATIONS: EVERYBODY - {"nobody", "key"},
    Permission.WRITE_OWN: {"owner", "admin", "member"} | OPERATORS,
    Permission.LOG_OWN: {"owner", "admin", "member", "key"} | OPERATORS,
    Permission.READ_ORGANIZATION: {"owner", "admin", "billing", "viewer"} | OPERATORS,
    Permission.MANAGE: {"owner", "admin"} | OPERATORS,
    Permission.READ_USAGE: {"owner", "admin", "billing", "viewer"} | OPERATORS,
    Permission.READ_BILLING: {"owner", "billing"} | OPERATORS,
    Permission.BILL: {"owner", "billing"} | OPERATORS,
    Permission.OPERATE: OPERATORS,
    Permission.ADMIN_TOKEN: {"admin token"},
}
ROUTES_BY_PERMISSION = {
    Permission.OPEN: "GET /healthz · GET /readyz · GET /openapi.json · POST /api/auth/register · POST /api/auth/login · "
    "POST /api/auth/renew · POST /api/auth/forgot · POST /api/auth/reset",
    Permission.SIGNED_IN: "POST /api/auth/logout · GET /api/auth/me · POST /api/auth/password · GET /api/organizations · "
    "POST /api/invitations/accept",
    Permission.READ_ORGANIZATION: "GET /api/organizations/{id}/members · GET /api/organizations/{id}/invitations · "
    "GET /api/budgets · GET /api/budgets/{id}/status · GET /api/refusals · "
    "GET /api/organizations/{id}/teams",
    Permission.MANAGE: "PATCH /api/organizations/{id} · PATCH /api/organizations/{id}/members/{user_id} · "
    "DELETE /api/organizations/{id}/members/{user_id} · POST /api/organizations/{id}/invitations · "
    "DELETE /api/organizations/{id}/invitations/{invitation_id} · POST /api/budgets · PATCH /api/budgets/{id} · "
    "DELETE /api/budgets/{id} · POST /api/organizations/{id}/teams · "
    "PATCH /api/organizations/{id}/teams/{team_id} · DELETE /api/organizations/{id}/teams/{team_id}",
    Permission.READ_OWN: "GET /api/credits/balance · GET /api/user/credits · GET /api/user/activity · "
    "GET /api/user/activity/export · GET /api/usage/logs · GET /api/usage/requests/{id} · GET /api/usage/stats · "
    "GET /api/usage/forecast · GET /api/credits/usage · GET /api/prices · GET /api/prices/compare · GET /api/ai/models",
    Permission.READ_OWN_KEYS: "GET /api/keys · GET /api/keys/{id}/usage",
    Permission.READ_NOTIFICATIONS: "GET /api/notifications · POST /api/notifications/read · "
    "POST /api/notifications/{id}/read",
    Permission.WRITE_OWN: "POST /api/keys · PATCH /api/keys/{id} · DELETE /api/keys/{id} · POST /api/keys/{id}/rotate · "
    "POST /api/chat · POST /api/ai/chat · POST /api/ai/chat/stream · POST /api/auth/refresh-api-key",
    Permission.LOG_OWN: "POST /api/usage/log",
    Permission.READ_USAGE: "GET /api/credits/mark · GET /api/credits/transactions · GET /api/credits/transactions/export · GET /api/credits/report · "
    "GET /v1/organization/usage/completions · GET /v1/organization/usage/embeddings · "
    "GET /v1/organization/usage/moderations · GET /v1/organization/usage/images · "
    "GET /v1/organization/usage/web_search_calls · GET /v1/organization/usage/file_search_calls · "
    "GET /v1/organization/usage/code_interpreter_sessions · GET /v1/organization/usage/decisions · "
    "GET /v1/organization/usage/vector_stores · "
    "GET /v1/organization/usage/audio_speeches · GET /v1/organization/usage/audio_transcriptions · "
    "GET /v1/organization/costs",
    Permission.READ_BILLING: "GET /api/credits/purchases",
    Permission.BILL: "PATCH /api/credits/mark · POST /api/credits/purchase · POST /api/credits/purchases/{id}/cancel",
    Permission.OPERATE: "GET /api/audit · GET /api/admin/users · PATCH /api/admin/users/{id} · "
    "POST /api/admin/users/{id}/reset · GET /api/admin/accounts · GET /api/admin/organizations · "
    "GET /api/admin/accounts/{id} · PATCH /api/admin/accounts/{id} · POST /api/admin/accounts/{id}/credits · "
    "GET /api/admin/system · GET /api/admin/providers · POST /api/admin/providers · PATCH /api/admin/providers/{id} · DELETE /api/admin/providers/{id} · "
    "GET /api/admin/prices · GET /api/admin/provider-keys · POST /api/admin/provider-keys · POST /api/admin/provider-keys/{id}/rotate · "
    "DELETE /api/admin/provider-keys/{id} · GET /api/admin/purchases · "
    "POST /api/admin/purchases/{id}/confirm · POST /api/admin/purchases/{id}/decline",
}
"""Whoever adds a route says here whom it is for; all of `/admin` and the metrics want the admin token."""
REFUSED = {Case.NOT_SIGNED_IN, Case.PERMISSION_DENIED, Case.ADMIN_TOKEN_INVALID}


def expected() -> dict[tuple[str, str], Permission]:
    told = {
        tuple(line.split()): permission
        for permission, text in ROUTES_BY_PERMISSION.items()
        for line in text.split(" · ")
    }
    admin = {
        (route.method, route.path): Permission.ADMIN_TOKEN
        for route in ROUTES
        if route.path.startswith("/admin/") or route.path == "/metrics"
    }
    return told | admin  # type: ignore[return-value]


def test_every_route_has_its_entry() -> None:
    """A route that nobody has thought about fails here."""
    assert {(route.method, route.path): route.permission for route in ROUTES} == expected()


@pytest.fixture
async def asking(database: str) -> AsyncIterator[Asking]:
    async with pool_of(database) as pool:
        yield Asking(pool)


async def cast(asking: Asking) -> tuple[dict[str, str | None], Person, Person]:
    """Tokens of everybody, in the organization of the first person; the second one is a stranger."""
    owner, stranger = await asking.person("owner"), await asking.person("stranger")
    tokens: dict[str, str | None] = {"owner": owner.token, "nobody": None, "admin token": ADMIN_TOKEN}
    for role in (Role.ADMIN, Role.BILLING, Role.MEMBER, Role.VIEWER):
        person = await asking.person(role.value)
        await asking.joins(person, owner.organization_id, role)
        tokens[role.value] = person.token
    operator = await asking.person("operator")
    await asking.pool.execute("UPDATE users SET is_operator = true WHERE id = $1", operator.id)
    tokens["operator"] = operator.token
    made = await asking("POST", "/api/keys", {"name": "one"}, token=owner.token)
    tokens["key"] = made.body["key"]
    await asking("POST", "/api/keys", {"name": "the latest, which is refreshed"}, token=owner.token)
    return tokens, owner, stranger


def filled(route: Route, organization_id: UUID) -> str:
    """A route's path about an organization; ids of other things are nobody's."""
    if route.names_organization:
        return re.sub(r"\{\w+\}", str(uuid4()), route.path.replace("{id}", str(organization_id)))
    about = f"?organization_id={organization_id}" if is_of_organization(route.permission) else ""
    return re.sub(r"\{\w+\}", str(uuid4()), route.path) + about


async def test_everybody_may_what_the_table_says(asking: Asking) -> None:
    """In the own organization what the role allows; in a foreign one nothing, which does not even exist."""
    tokens, owner, stranger = await cast(asking)
    assert set(tokens) == EVERYBODY
    wrong = []
    for route in [route for route in ROUTES if not route.path.startswith("/api/auth/log")]:
        about = is_of_organization(route.permission)
        for who, token in tokens.items():
            heard = await asking(route.method, filled(route, owner.organization_id), {}, token=token)
            may = who in MAY[route.permission]
            if (heard.case not in REFUSED) != may:
                wrong.append(f"{who}: {route.method} {route.path} in the own: {heard.case}")
            if about and who not in OPERATORS | {"nobody"}:
                heard = await asking(route.method, filled(route, stranger.organization_id), {}, token=token)
                if heard.case is not Case.NOT_FOUND:
                    wrong.append(f"{who}: {route.method} {route.path} in a foreign one: {heard.case or heard.status}")
    assert wrong == []


async def test_an_organization_that_is_not_there_is_nobodys(asking: Asking) -> None:
    """Not even an operator's; and what is no id is malformed."""
    for token in (ADMIN_TOKEN, (await asking.person("ann")).token):
        heard = await asking("GET", f"/api/credits/balance?organization_id={uuid4()}", token=token)
        assert heard.case is Case.NOT_FOUND
        heard = await asking("GET", "/api/credits/balance?organization_id=mine", token=token)
        assert (heard.case, heard.param) == (Case.MALFORMED, "organization_id")
    assert (await asking("GET", "/api/credits/balance", token=ADMIN_TOKEN)).param == "organization_id"


@pytest.mark.parametrize(("method", "suffix", "body"), [
    ("PATCH", "", {"name": "mine now"}), ("DELETE", "", None), ("POST", "/rotate", {}),
])  # fmt: skip
async def test_foreign_keys_do_not_exist(asking: Asking, method: str, suffix: str, body: object) -> None:
    """Neither those of another organization nor, for a member, those of others in his own."""
    owner, stranger, member = [await asking.person(name) for name in ("owner", "stranger", "member")]
    await asking.joins(member, owner.organization_id, Role.MEMBER)
    theirs = (await asking("POST", "/api/keys", {"name": "theirs"}, token=owner.token)).body["id"]
    path = f"/api/keys/{theirs}{suffix}"
    assert (await asking(method, path, body, token=stranger.token)).case is Case.NOT_FOUND
    in_theirs = f"{path}?organization_id={owner.organization_id}"
    assert (await asking(method, in_theirs, body, token=member.token)).case is Case.NOT_FOUND
    assert (await asking(method, path, body, token=owner.token)).status in {200, 201}
    listed = await asking("GET", f"/api/keys?organization_id={owner.organization_id}", token=member.token)
    assert listed.body["data"] == []
