"""What strangers and members try: other people's ids, words that are not only words, and more than their role allows."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote
from uuid import UUID

import asyncpg
import pytest

from meterproxy.control.access import is_of_organization
from meterproxy.control.route import Route
from meterproxy.control.routes import ROUTES
from meterproxy.core.role import Role
from meterproxy.errors import ApiError, Case
from meterproxy.proxy.client import Client
from meterproxy.proxy.server import Dispatch, HttpServer
from tests.control.asking import ADMIN_TOKEN, Asking, Person
from tests.control.history import history
from tests.ledger.bank import pool_of

BODIES: dict[tuple[str, str], Any] = {
    ("PATCH", "/api/keys/{id}"): {"name": "mine now"},
    ("POST", "/api/keys/{id}/rotate"): {},
    ("PATCH", "/api/budgets/{id}"): {"name": "mine now", "cap": "999.00"},
    ("PATCH", "/api/organizations/{id}/members/{user_id}"): {"role": "viewer"},
    ("PATCH", "/api/organizations/{id}/teams/{team_id}"): {"name": "mine now"},
}
"""What is said where a body is wanted together with an id of something."""
TABLES = (
    "keys", "limits", "memberships", "invitations", "teams", "users", "audit_log",
    "purchases", "notification_reads", "credit_marks",
)  # fmt: skip
HOSTILE = (
    "'; DROP TABLE users; --", "' OR '1'='1", '" OR 1=1 --', "%", "_", "\\", "$1", "{{7*7}}", "${jndi:ldap://x}",
    "../../etc/passwd", "a\r\nSet-Cookie: x=1", "\u202e", "a\0b", "'||pg_sleep(10)||'", "1); SELECT 1; --",
)  # fmt: skip


@pytest.fixture
async def asking(database: str) -> AsyncIterator[Asking]:
    async with pool_of(database) as pool:
        yield Asking(pool)


async def belongings(asking: Asking, person: Person) -> dict[str, str]:
    """One of everything in somebody's organization, by the word that stands before its id in a path."""
    path = f"/api/organizations/{person.organization_id}"
    key = (await asking("POST", "/api/keys", {"name": "k"}, token=person.token)).body
    budget = {"measure": "amount", "window": "month", "cap": "5.00"}
    invitation = {"email": "somebody@example.com", "role": "member"}
    purchase = (await asking("POST", "/api/credits/purchase", {"amount": "20"}, token=person.token)).body["id"]
    told = await asking.pool.fetchval(
        "INSERT INTO notifications (account_id, kind, subject_id, detail) VALUES ($1, 'credit.exhausted', $1, '{}')"
        " RETURNING id",
        person.account_id,
    )
    (record,) = await history(asking.pool, [UUID(key["id"])], rows=1)
    return {
        "keys": key["id"],
        "budgets": (await asking("POST", "/api/budgets", budget, token=person.token)).body["id"],
        "invitations": (await asking("POST", f"{path}/invitations", invitation, token=person.token)).body["id"],
        "teams": (await asking("POST", f"{path}/teams", {"name": "t"}, token=person.token)).body["id"],
        "members": str(person.id),
        "purchases": purchase,
        "notifications": str(told),
        "requests": str(record.subject.request_id),
        "key": key["key"],
    }


def with_foreign_ids(route: Route, own: UUID, foreign: dict[str, str]) -> str:
    """A route's path in the own organization with the ids of somebody else's things."""
    path = route.path
    if route.names_organization:
        path = path.replace("{id}", str(own), 1)
    return re.sub(r"([a-z_-]+)/\{\w+\}", lambda found: f"{found[1]}/{foreign[found[1]]}", path)


async def stand(pool: asyncpg.Pool) -> list[Any]:
    """All that could have been changed."""
    return [await pool.fetch(f"SELECT t::text FROM {table} t ORDER BY 1") for table in TABLES]


async def test_ids_of_others_are_worth_nothing(asking: Asking) -> None:
    """Every route with an id, asked in one's own organization for what is another's, by its owner and by his key."""
    ann, bob = await asking.person("ann"), await asking.person("bob")
    theirs, own = await belongings(asking, bob), await belongings(asking, ann)
    routes = [
        route for route in ROUTES
        if is_of_organization(route.permission) and route.path.replace("organizations/{id}", "").count("{")
    ]  # fmt: skip
    assert len(routes) >= 10
    before, wrong = await stand(asking.pool), []
    for route in routes:
        path, body = with_foreign_ids(route, ann.organization_id, theirs), BODIES.get((route.method, route.path))
        assert route.body is None or body is not None, f"say what is sent to {route.method} {route.path}"
        for token in (ann.token, own["key"]):
            heard = await asking(route.method, path, body, token=token)
            if heard.case is not Case.NOT_FOUND and not (token == own["key"] and heard.case is Case.PERMISSION_DENIED):
                wrong.append((route.method, path, heard))
    assert wrong == []
    assert await stand(asking.pool) == before


async def test_ids_of_others_in_what_is_sent_are_worth_nothing(asking: Asking) -> None:
    """A key for another's team, a budget on another's key, figures of another's users: not found, or nothing."""
    ann, bob = await asking.person("ann"), await asking.person("bob")
    theirs = await belongings(asking, bob)
    limit = {"measure": "amount", "window": "month", "cap": "5.00"}
    key = (await asking("POST", "/api/keys", {"name": "k"}, token=ann.token)).body["id"]
    for method, path, body in (
        ("POST", "/api/keys", {"name": "k", "team_id": theirs["teams"]}),
        ("PATCH", f"/api/keys/{key}", {"team_id": theirs["teams"]}),
        ("POST", "/api/budgets", {**limit, "scope": "key", "scope_id": theirs["keys"]}),
        ("POST", "/api/budgets", {**limit, "scope": "user", "scope_id": str(bob.id)}),
        ("POST", "/api/budgets", {**limit, "scope": "account", "scope_id": str(bob.account_id)}),
        ("POST", "/api/budgets", {**limit, "scope": "organization", "scope_id": str(bob.organization_id)}),
    ):
        assert (await asking(method, path, body, token=ann.token)).case is Case.NOT_FOUND, body
    for query in (f"key_id={theirs['keys']}", f"user_id={bob.id}", f"userId={bob.id}"):
        for path in ("/api/user/activity", "/api/usage/stats", "/api/user/activity/export"):
            heard = await asking("GET", f"{path}?{query}", token=ann.token)
            assert theirs["requests"] not in str(heard.body), (path, query)
    twice = f"organization_id={ann.organization_id}&organization_id={bob.organization_id}"
    assert (await asking("GET", f"/api/keys?{twice}", token=ann.token)).case is Case.MALFORMED


async def test_a_member_sees_nothing_of_his_colleagues(asking: Asking) -> None:
    """Not their requests, their keys, nor what those used; and he makes no key that would."""
    owner, member = await asking.person("owner"), await asking.person("member")
    await asking.joins(member, owner.organization_id, Role.MEMBER)
    theirs, about = await belongings(asking, owner), f"organization_id={owner.organization_id}"
    for path in (f"/api/usage/requests/{theirs['requests']}", f"/api/keys/{theirs['keys']}/usage"):
        assert (await asking("GET", f"{path}?{about}", token=member.token)).case is Case.NOT_FOUND
    for query in (f"key_id={theirs['keys']}", f"user_id={owner.id}", ""):
        heard = await asking("GET", f"/api/user/activity?{about}&{query}", token=member.token)
        assert heard.case is Case.NOT_FOUND if f"user_id={owner.id}" == query else heard.body["data"] == []
    own = await asking("POST", f"/api/keys?{about}", {"name": "k"}, token=member.token)
    for method, path in (("POST", "/api/keys"), ("PATCH", f"/api/keys/{own.body['id']}")):
        heard = await asking(method, f"{path}?{about}", {"name": "k", "reads_usage": True}, token=member.token)
        assert (heard.case, heard.param) == (Case.PERMISSION_DENIED, "reads_usage")


@pytest.mark.parametrize(("method", "path", "body", "extra"), [
    ("POST", "/api/auth/register", {"username": "eve", "email": "eve@example.com", "password": "a long password"},
     {"is_operator": True}),
    ("POST", "/api/keys", {"name": "k"}, {"user_id": "00000000-0000-0000-0000-000000000001"}),
    ("POST", "/api/keys", {"name": "k"}, {"account_id": "00000000-0000-0000-0000-000000000001"}),
    ("POST", "/api/budgets", {"measure": "amount", "window": "month", "cap": "1.00"}, {"is_own": False}),
    ("POST", "/api/usage/log", {"event_id": "e", "model": "m"}, {"amount": "-5.00"}),
    ("POST", "/api/usage/log", {"event_id": "e", "model": "m"}, {"user_id": "00000000-0000-0000-0000-000000000001"}),
])  # fmt: skip
async def test_nobody_says_more_than_he_is_asked(
    asking: Asking, method: str, path: str, body: dict[str, Any], extra: dict[str, Any]
) -> None:
    """A member that a body does not have is refused by its name, not passed over and not taken."""
    ann = await asking.person("ann")
    heard = await asking(method, path, {**body, **extra}, token=ann.token)
    assert (heard.case, heard.param) == (Case.MALFORMED, *extra)


@pytest.mark.parametrize("words", HOSTILE)
async def test_words_are_only_words(asking: Asking, words: str) -> None:
    """In every text of every query: nothing is run, nothing matches what it is not, and nobody waits."""
    ann = await asking.person("ann")
    await history(asking.pool, [UUID((await belongings(asking, ann))["keys"])], rows=3)
    before = await stand(asking.pool)
    for route in ROUTES:
        if route.method != "GET" or "{" in route.path:
            continue
        token = ADMIN_TOKEN if route.path.startswith(("/admin", "/api/admin", "/api/audit")) else ann.token
        for name, field in route.query.model_fields.items():
            needed = "&start_time=1" if "start_time" in route.query.model_fields.keys() - {name} else ""
            asked = f"{route.path}?{field.alias or name}={quote(words)}{needed}"
            heard = await asking("GET", asked, token=token)
            assert heard.status in {200, 400}, (asked, heard)
            assert not heard.headers or not {"Set-Cookie"} & set(heard.headers), asked
            found = heard.body["data"] if isinstance(heard.body, dict) and "data" in heard.body else []
            assert found == [] or words in str(found) or "bucket" in str(found[0]), asked
    assert await stand(asking.pool) == before


@pytest.mark.parametrize("headers", [
    {"Authorization": "Bearer " + "x" * 100_000}, {"Authorization": "Bearer \xe4\xff"}, {"Authorization": "Bearer"},
    {"Authorization": "Basic YTpi"}, {"Authorization": "Bearer mp-'; DROP TABLE keys; --"},
    {"Authorization": "Bearer eyJhbGciOiJub25lIn0.e30."}, {"Authorization": ""},
])  # fmt: skip
async def test_what_is_no_credential_is_refused(asking: Asking, headers: dict[str, str]) -> None:
    """Whatever is in its place: 401, and no fault of ours."""
    heard = await asking("GET", "/api/auth/me", headers=headers)
    assert heard.status == 401
    heard = await asking("GET", "/admin/accounts", headers=headers)
    assert heard.case is Case.ADMIN_TOKEN_INVALID


async def test_nothing_that_is_asked_becomes_a_header(asking: Asking) -> None:
    """Line ends in a path, a query, an organization's name and an error: each answer has the headers that we gave it."""
    ann = await asking.person("ann")
    await asking("POST", "/api/keys", {"name": "a\r\nSet-Cookie: x=1"}, token=ann.token)
    async with listening(asking) as port:
        for target in (
            "/api/%0d%0aSet-Cookie:%20x=1", "/login?next=%2f%0d%0aSet-Cookie:%20x=1", "/api/keys?%0d%0aSet-Cookie:x=1",
            "/api/keys?cursor=%0d%0aSet-Cookie:x=1", "/api/keys",
        ):  # fmt: skip
            head = await _head(port, target, ann.token)
            assert b"set-cookie" not in head.lower(), target
            assert head.startswith(b"HTTP/1.1 "), target


@asynccontextmanager
async def listening(asking: Asking) -> AsyncIterator[int]:
    """The API on a socket; its port."""
    server = HttpServer(Dispatch(_no_data_plane, asking.api.answer, asking.api.admit))
    listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    yield int(listener.sockets[0].getsockname()[1])
    listener.close()
    await server.shutdown(0.5)


async def _no_data_plane(client: Client) -> None:
    client.refuse(ApiError(Case.PATH_UNKNOWN, "There is no data plane here."))


async def test_a_credential_of_any_bytes_is_refused(asking: Asking) -> None:
    """What is no text at all is no token."""
    async with listening(asking) as port:
        for token in (b"\xff\xfe", b"\xc3\x28", b"mp-\xe4", b"e30.\xf0.e30"):
            for target in (b"/api/auth/me", b"/admin/accounts"):
                request = b"GET " + target + b" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + token
                assert (await _asked(port, request)).startswith(b"HTTP/1.1 401 "), token


async def _head(port: int, target: str, token: str) -> bytes:
    return await _asked(port, f"GET {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}".encode())


async def _asked(port: int, head: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head + b"\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer.partition(b"\r\n\r\n")[0]
