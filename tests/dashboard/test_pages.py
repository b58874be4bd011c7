"""Pages: who may see and send them, and what nobody can make them do."""

import csv
import io
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Literal
from urllib.parse import quote, urlencode
from uuid import UUID, uuid4

import asyncpg
import pytest

from meterproxy.config import Provider
from meterproxy.control.access import Permission
from meterproxy.core.role import Role
from meterproxy.dashboard import static
from meterproxy.dashboard.pages import DONE, about, own_path
from meterproxy.dashboard.routes import PAGES
from meterproxy.errors import StoreUnavailable
from tests.control.asking import ADMIN_TOKEN, PASSWORD, Asking
from tests.control.history import history
from tests.control.test_matrix import MAY
from tests.dashboard.visitor import Visitor
from tests.ledger.bank import pool_of

PAGES_BY_PERMISSION = {
    Permission.OPEN: "GET /static/{digest}/{name} · GET /favicon.ico · GET /login · POST /login · GET /login/openid · GET /login/openid/back · GET /register · POST /register · "
    "GET /forgot · POST /forgot · GET /reset · POST /reset · GET /docs",
    Permission.SIGNED_IN: "POST /logout · GET /profile · POST /profile/password · POST /profile/organization · "
    "GET /invitation · POST /invitation",
    Permission.READ_OWN: "GET / · GET /latest · GET /live · GET /activity · GET /activity/export · GET /activity/{id} · "
    "GET /credits · GET /prices · GET /prices/compare",
    Permission.READ_OWN_KEYS: "GET /keys · GET /keys/{id}",
    Permission.WRITE_OWN: "POST /keys · POST /keys/{id} · POST /keys/{id}/rotate · POST /keys/{id}/revoke · GET /chat",
    Permission.READ_USAGE: "GET /credits/export · GET /reports · GET /reports/usage · GET /reports/statement",
    Permission.READ_ORGANIZATION: "GET /budgets · GET /members",
    Permission.MANAGE: "POST /budgets · POST /budgets/{id} · POST /budgets/{id}/retire · POST /members/invite · "
    "POST /members/teams · POST /members/teams/{id}/rename · POST /members/teams/{id}/remove · "
    "POST /members/organization · POST /members/{id}/role · POST /members/{id}/remove · "
    "POST /members/invitations/{id}/withdraw",
    Permission.READ_NOTIFICATIONS: "GET /notifications · POST /notifications/read · POST /notifications/{id}/read",
    Permission.BILL: "POST /credits/mark · POST /credits/purchase · POST /credits/purchases/{id}/cancel",
    Permission.OPERATE: "GET /operate/purchases · POST /operate/purchases/{id}/confirm · "
    "POST /operate/purchases/{id}/decline · GET /operate/organizations · POST /operate/organizations · GET /operate/organizations/{id} · "
    "POST /operate/organizations/{id} · POST /operate/organizations/{id}/credit · GET /operate/people · "
    "POST /operate/people/{id} · POST /operate/people/{id}/reset · GET /operate/system · GET /operate/audit · "
    "GET /operate/providers · POST /operate/providers · POST /operate/providers/{id} · POST /operate/providers/{id}/remove · "
    "POST /operate/providers/{id}/keys · POST /operate/provider-keys/{id}/rotate · "
    "POST /operate/provider-keys/{id}/remove",
}
"""Whoever adds a page says here whom it is for."""
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{7*7}}\u202e\u2067"


@pytest.fixture
async def asking(database: str) -> AsyncIterator[Asking]:
    async with pool_of(database) as pool:
        yield Asking(pool)


def test_every_page_has_its_entry() -> None:
    """A page that nobody has thought about fails here."""
    expected = {
        tuple(line.split()): permission
        for permission, text in PAGES_BY_PERMISSION.items()
        for line in text.split(" · ")
    }
    assert {(route.method, route.path): route.permission for route in PAGES} == expected


async def cast(asking: Asking) -> dict[str, Visitor]:
    owner = await asking.person("owner")
    visitors = {"owner": await Visitor.of(asking, owner)}
    for role in (Role.ADMIN, Role.BILLING, Role.MEMBER, Role.VIEWER):
        person = await asking.person(role.value)
        await asking.joins(person, owner.organization_id, role)
        await asking.pool.execute(
            "UPDATE logins SET organization_id = $1 WHERE user_id = $2", owner.organization_id, person.id
        )
        visitors[role.value] = await Visitor.of(asking, person)
    operator = await asking.person("operator")
    await asking.pool.execute("UPDATE users SET is_operator = true WHERE id = $1", operator.id)
    visitors["operator"] = await Visitor.of(asking, operator)
    return visitors


async def test_every_page_is_for_whom_the_table_says(asking: Asking) -> None:
    """Whoever may not see it is told so; whoever is nobody is sent to sign in."""
    visitors = await cast(asking)
    wrong = []
    for route in [route for route in PAGES if route.path not in {"/live", "/logout"}]:
        path = re.sub(r"\{\w+\}", str(uuid4()), route.path)
        for who, visitor in visitors.items():
            heard = await (visitor.get(path) if route.method == "GET" else visitor.post(path))
            if (heard.status == 403) == (who in MAY[route.permission]) or heard.status >= 500:
                wrong.append(f"{who}: {route.method} {route.path}: {heard.status}")
        if route.permission is not Permission.OPEN:
            heard = await asking(route.method, path, b"", headers={"Sec-Fetch-Site": "same-origin"})
            if heard.status != 303 or not heard.headers["Location"].startswith("/login"):
                wrong.append(f"nobody: {route.method} {route.path}: {heard.status}")
    assert wrong == []


async def test_pages_work_behind_what_names_another_host_to_us(asking: Asking) -> None:
    """A page at the public address is ours, whatever `Host` says; one elsewhere is not."""
    person = await asking.person("ann")
    ann = await Visitor.of(Asking(asking.pool, public_url="https://meter.example.com"), person)
    for origin, status in (
        ("https://meter.example.com", 200), ("http://meter.example.com", 403), ("https://meter.example.com.evil", 403),
        ("https://evil.example", 403), ("null", 403), ("", 403),
    ):  # fmt: skip
        headers = {"Origin": origin, "Host": "127.0.0.1:8080", "Sec-Fetch-Site": "same-origin"}
        assert (await ann.post("/keys", headers=headers, name="x")).status == status, origin


async def test_nothing_is_changed_without_what_only_our_pages_know(asking: Asking) -> None:
    """Neither by a form nor by the API, with another's token, none, or from another site's page."""
    ann = await Visitor.of(asking, await asking.person("ann"))
    bob = await Visitor.of(asking, await asking.person("bob"))
    for csrf in ("", bob.csrf, ann.csrf[:-1]):
        assert (await ann.post("/keys", csrf=csrf, name="x")).status == 403
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}, {"Origin": "null"}):
        assert (await ann.post("/keys", headers=headers, name="x")).status == 403, headers
        credentials = {"email": "ann@example.com", "password": "correct horse battery"}
        assert (await ann.post("/login", headers=headers, **credentials)).status == 403, headers
    cookie = {"Cookie": f"meterproxy_session={ann.cookie}"}
    assert (await asking("POST", "/api/keys", {"name": "x"}, headers=cookie)).status == 403
    assert (
        await asking("POST", "/api/keys", {"name": "x"}, headers={**cookie, "X-CSRF-Token": ann.csrf})
    ).status == 201
    assert (await ann.post("/keys", name="x")).status == 200


async def test_a_cookie_is_no_bearer_token_nor_the_other_way(asking: Asking) -> None:
    """Each is made for one way of asking."""
    person = await asking.person("ann")
    ann = await Visitor.of(asking, person)
    assert (await asking("GET", "/api/auth/me", token=ann.cookie)).status == 401
    heard = await asking("GET", "/profile", headers={"Cookie": f"meterproxy_session={person.token}"})
    assert heard.status == 303


async def test_a_log_in_lives_in_a_cookie_that_scripts_cannot_read(asking: Asking) -> None:
    """For this site only, and over TLS only where we are reached by it; signing out ends it."""
    await asking.person("ann")
    body = b"email=ann%40example.com&password=correct+horse+battery"
    heard = await asking("POST", "/login?next=/keys", body, headers={"X-Forwarded-Proto": "https"})
    assert (heard.status, heard.headers["Location"]) == (303, "/keys")
    cookie = heard.cookies["meterproxy_session"]
    assert (cookie["httponly"], cookie["samesite"], cookie["path"], cookie["secure"]) == (True, "Lax", "/", True)
    heard = await asking("POST", "/login", body)
    assert not heard.cookies["meterproxy_session"]["secure"]


async def test_what_is_configured_decides_over_what_a_request_says_of_itself(database: str) -> None:
    """A proxy that forgets X-Forwarded-Proto makes no cookie less safe, and no Host header a link elsewhere."""
    async with pool_of(database) as pool:
        asking = Asking(pool, public_url="https://meter.example.com")
        person = await asking.person("ann")
        body = urlencode({"email": person.email, "password": PASSWORD}).encode()
        heard = await asking("POST", "/login?next=/keys", body, headers={"Host": "evil.example"})
        assert heard.cookies["meterproxy_session"]["secure"]
        visitor = await Visitor.of(asking, person)
        made = await visitor.post("/keys", name="k", headers={"Host": "evil.example"})
    assert b"https://meter.example.com/v1" in made.body
    assert b"evil.example" not in made.body


async def test_files_are_the_same_for_everybody(asking: Asking) -> None:
    """Nobody looks who asks for a style sheet: not even a cookie of nobody's is minded."""
    heard = await asking("GET", static.address_of("app.css"), headers={"Cookie": "meterproxy_session=nonsense"})
    assert (heard.status, heard.headers["Cache-Control"]) == (200, "public, max-age=31536000, immutable")


async def test_budgets_are_paged(asking: Asking) -> None:
    """However many there are, each is on one page."""
    owner = await asking.person("owner")
    for number in range(23):
        new = {"name": f"budget {number:02}", "measure": "amount", "window": "month", "cap": "1.00"}
        assert (await asking("POST", "/api/budgets", new, token=owner.token)).status == 201
    visitor = await Visitor.of(asking, owner)
    first = (await visitor.get("/budgets")).body.decode()
    (cursor,) = re.findall(r"/budgets\?cursor=([0-9a-f-]+)", first)
    second = (await visitor.get(f"/budgets?cursor={cursor}")).body.decode()
    shown = [re.findall(r"budget \d\d", page) for page in (first, second)]
    assert sorted({*shown[0], *shown[1]}) == [f"budget {number:02}" for number in range(23)]
    assert not {*shown[0]} & {*shown[1]}
    assert "cursor=" not in second
    limits = (await asking("GET", "/api/budgets?limit=50", token=owner.token)).body["data"]
    linked = (await visitor.get(f"/budgets?first={limits[21]['id']}")).body.decode()
    assert re.findall(r"<h2><bdi>(budget \d\d)", linked) == ["budget 21", "budget 22"], (
        "a link to one leads to the page it is on"
    )
    login_id = await asking.pool.fetchval("SELECT id FROM logins ORDER BY id DESC LIMIT 1")
    ann = Visitor(asking, login_id, await asking.pool.fetchval("SELECT user_id FROM logins WHERE id = $1", login_id))
    assert (await ann.get("/profile")).status == 200
    assert (await ann.post("/logout")).status == 303
    assert (await ann.get("/profile")).status == 303


@pytest.mark.parametrize("address", [
    "https://evil.example", "//evil.example", "/\\evil.example", "\\\\evil.example", "javascript:alert(1)", "evil",
    "/ok\r\nSet-Cookie: a=b", "/\tok", "",
])  # fmt: skip
async def test_nobody_is_sent_elsewhere(asking: Asking, address: str) -> None:
    """What an address says to go on at after signing in is a path of ours, or the first page."""
    assert own_path(address) == "/"
    await asking.person("ann")
    from urllib.parse import quote

    body = b"email=ann%40example.com&password=correct+horse+battery"
    heard = await asking("POST", f"/login?next={quote(address)}", body)
    assert heard.status in {303, 400}
    assert heard.status == 400 or heard.headers["Location"] == "/"


class Tags(HTMLParser):
    """What a page consists of."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


async def test_what_people_write_is_text(asking: Asking) -> None:
    """In every name and description, on every page: no element, attribute or template comes of it, and nothing is turned round."""
    person = await asking.person("ann")
    pool = asking.pool
    await pool.execute("UPDATE users SET name = $1, is_operator = true WHERE id = $2", HOSTILE, person.id)
    await pool.execute("UPDATE organizations SET name = $1", HOSTILE)
    ann = await Visitor.of(asking, person)
    made = await asking("POST", "/api/keys", {"name": HOSTILE, "description": HOSTILE}, token=person.token)
    key_id = made.body["id"]
    grant = {"amount": "9.00", "kind": "grant", "description": HOSTILE}
    await asking("POST", f"/admin/accounts/{person.account_id}/credits", grant, token=ADMIN_TOKEN)
    await ann.post("/budgets", name=HOSTILE, whose="account", measure="amount", window="month", cap="5.00")
    await ann.post("/members/teams", name=HOSTILE)
    await asking(
        "POST", f"/api/organizations/{person.organization_id}/invitations",
        {"email": 'a"><script>@x.example', "role": "member"}, token=person.token,
    )  # fmt: skip
    await history(pool, [UUID(key_id)], rows=30)
    for table, column in (
        ("usage_events", "conversation"),
        ("usage_events", "served_model"),
        ("usage_by_day", "model"),
    ):
        await pool.execute(f"UPDATE {table} SET {column} = $1 || {column}", HOSTILE)
    request_id = await pool.fetchval("SELECT id FROM usage_events WHERE amount_nanos > 0 LIMIT 1")
    account = person.account_id
    await pool.execute(
        "INSERT INTO notifications (account_id, kind, subject_id, detail) SELECT $1, kind, $1, jsonb_build_object("
        " 'name', $2::text, 'scope', 'account', 'measure', 'amount', 'window', 'day', 'enforcement', 'hard', 'grace', 0,"
        " 'mark', 100, 'used', 1, 'cap', 1, 'code', $2::text, 'amount_nanos', 1, 'reason', $2::text, 'left_nanos', 1,"
        " 'below_nanos', 1, 'booked_nanos', 2) FROM unnest(ARRAY['limit.passed', 'credit.low', 'credit.exhausted',"
        " 'purchase.declined', 'purchase.confirmed', $2]) AS kind",
        account, HOSTILE,
    )  # fmt: skip
    since = datetime.now(UTC).date() - timedelta(days=50)
    paths = [
        "/", "/latest", "/activity", f"/activity/{request_id}", "/credits", "/keys", f"/keys/{key_id}", "/budgets",
        "/chat", f"/reports?from={since}", "/reports?group_by=key", "/reports?group_by=conversation", "/members",
        "/profile", "/operate/organizations", f"/operate/organizations/{account}", "/operate/people",
        "/operate/audit", "/operate/purchases", "/notifications", "/prices", f"/activity?model={HOSTILE}", f"/operate/people?q={HOSTILE}",
        f"/register?token={HOSTILE}", f"/login?next=/{HOSTILE}", f"/invitation?token={HOSTILE}",
    ]  # fmt: skip
    for path in paths:
        heard = await ann.get(path.replace(HOSTILE, quote(HOSTILE)))
        assert heard.status in {200, 303}, (path, heard)
        text = heard.body.decode()
        assert not re.search("[\u202a-\u202e\u2066-\u2069]", text), path
        assert "49" not in re.findall(r"onerror=alert\(2\)&gt;(\d+)", text)
        tags = Tags()
        tags.feed(text)
        for tag, attributes in tags.found:
            assert not any(name.startswith("on") for name in attributes), (path, tag, attributes)
            assert tag != "script" or attributes.get("src") or attributes.get("type") == "application/json", path
            assert tag != "img" or str(attributes["src"]).startswith("/static/"), path
        assert "Content-Security-Policy" in heard.headers or heard.status == 303


async def test_a_form_that_cannot_be_done_says_why_and_keeps_what_was_filled_in(asking: Asking) -> None:
    """With the field at fault named."""
    person = await asking.person("ann")
    ann = await Visitor.of(asking, person)
    heard = await ann.post("/keys", name="reporting", highest_request="much")
    assert heard.status == 400
    assert b"Dearest request: not an amount" in heard.body
    assert b'value="reporting"' in heard.body
    heard = await ann.post("/budgets", name="b", whose="account", measure="requests", window="day", cap="1.5")
    assert heard.status == 400
    assert b"Cap: must be a whole number" in heard.body
    heard = await ann.post("/budgets", name="b", whose="account", measure="requests", window="day", cap="9" * 5000)
    assert heard.status == 400
    heard = await ann.post(f"/keys/{uuid4()}/rotate", grace_seconds="--5")
    assert heard.status == 400
    heard = await ann.post(
        "/budgets", name="b", whose="account", measure="requests", window="day", cap="15", marks="50"
    )
    assert heard.status == 303
    (budget,) = (await ann.asking("GET", "/api/budgets", token=person.token)).body["data"]
    path = f"/budgets/{budget['id']}"
    assert (budget["marks"], (await ann.post(path, cap="15", marks="50, 5000")).status) == ([50], 400)
    assert (await ann.post(path, cap="20", marks="60, 80")).status == 303
    (budget,) = (await ann.asking("GET", "/api/budgets", token=person.token)).body["data"]
    assert (budget["cap"], budget["marks"]) == (20, [60, 80])


async def test_a_form_that_cannot_be_done_keeps_whom_and_what_it_was_about(asking: Asking) -> None:
    """What was chosen stays chosen, and what was folded away is seen where it may be at fault."""
    ann = await Visitor.of(asking, await asking.person("ann"))
    text = (await ann.post("/budgets", measure="tokens", window="day", enforcement="soft", cap="1,5")).body.decode()
    for chosen in ('<option value="tokens" selected>', "<option selected>day<", '<option value="soft" selected>'):
        assert chosen in text
    assert b"<details open>" in (await ann.post("/keys", name="one", networks="nowhere")).body
    assert b"<option selected>viewer<" in (await ann.post("/members/invite", email="nobody", role="viewer")).body


@pytest.mark.parametrize(("looked_for", "is_open"), [("", False), ("?status=failed", False), ("?tool=search", True)])
async def test_filters_that_few_need_are_folded_away_unless_one_is_set(
    asking: Asking, looked_for: str, is_open: bool
) -> None:
    """Nobody overlooks by what a list is filtered, and a small window shows the list below the form."""
    ann = await Visitor.of(asking, await asking.person("ann"))
    page = (await ann.get(f"/activity{looked_for}")).body.decode()
    (folded,) = re.findall(r'<details class="more"( open)?>', page)
    assert bool(folded) == is_open


@pytest.mark.parametrize("path", ["/activity?from=soon", "/reports?from=2026-02-02&to=2026-02-01"])
async def test_a_filter_that_cannot_be_read_leaves_its_page_where_it_is(asking: Asking, path: str) -> None:
    """With the filters and the way to all other pages."""
    ann = await Visitor.of(asking, await asking.person("ann"))
    heard = await ann.get(path)
    assert (heard.status, b'class="filters' in heard.body, b'href="/budgets"' in heard.body) == (400, True, True)


async def test_all_pages_lead_to_the_same_pages(asking: Asking) -> None:
    """Also those that are about a person and no organization."""
    ann = await Visitor.of(asking, await asking.person("ann"))
    links = re.compile(rb'<nav.*?</nav>|<p class="org">.*?</p>', re.DOTALL)
    shown = {
        path: links.findall((await ann.get(path)).body.replace(b' aria-current="page"', b""))
        for path in ("/", "/profile")
    }
    assert shown["/"] == shown["/profile"] != []


async def test_a_budget_says_of_whom_it_is_and_what_is_left(asking: Asking) -> None:
    """A request is refused before the cap is reached if it may cost more than is left."""
    person = await asking.person("ann")
    ann = await Visitor.of(asking, person)
    made = await asking("POST", "/api/keys", {"name": "website"}, token=person.token)
    await ann.post("/budgets", whose=f"key {made.body['id']}", measure="amount", window="day", cap="5")
    text = (await ann.get("/budgets")).body.decode()
    assert "for the key <bdi>website</bdi>." in text
    assert '<dt>Left</dt><dd><span class="usd">$5.00</span></dd>' in text


async def test_an_exchange_says_by_which_key_it_was_and_what_it_drew_in_dollars(asking: Asking) -> None:
    """With a way to the key."""
    person = await asking.person("ann")
    made = await asking("POST", "/api/keys", {"name": "website"}, token=person.token)
    await history(asking.pool, [UUID(made.body["id"])], rows=3)
    request_id = await asking.pool.fetchval("SELECT id FROM usage_events WHERE amount_nanos > 0 LIMIT 1")
    text = (await (await Visitor.of(asking, person)).get(f"/activity/{request_id}")).body.decode()
    assert f'<dt>Key</dt><dd><a href="/keys/{made.body["id"]}">website</a></dd>' in text


async def test_a_key_that_is_over_is_not_said_to_live_on(asking: Asking) -> None:
    """Until its end it is told when that is."""
    person = await asking.person("ann")
    ann = await Visitor.of(asking, person)
    await ann.post("/keys", name="one", expires_at="2040-01-31")
    assert b"until <time" in (await ann.get("/keys")).body
    await asking.pool.execute("UPDATE keys SET expires_at = now()")
    assert b">expired<" in (await ann.get("/keys")).body


@pytest.mark.parametrize("path", ["/keys", "/members/teams"])
async def test_what_has_no_visible_name_is_not_made(asking: Asking, path: str) -> None:
    """Nobody could press on it."""
    heard = await (await Visitor.of(asking, await asking.person("ann"))).post(path, name="  ")
    assert (heard.status, b"Name: must not be blank" in heard.body) == (400, True)


@pytest.mark.parametrize(
    ("registration", "login", "register", "members"),
    [
        ("open", 'href="/register"', "<form", "/register?token="),
        ("invitation", "invited registers", "takes an invitation", "/register?token="),
        ("closed", "Ask your operator for one", "Nobody registers here", "needs one from the operator"),
    ],
)
async def test_nobody_is_sent_to_register_where_he_cannot(
    database: str, registration: Literal["open", "invitation", "closed"], login: str, register: str, members: str
) -> None:
    """Neither by the page for signing in nor by an invitation."""
    async with pool_of(database) as pool:
        ann = await Visitor.of(Asking(pool), await Asking(pool).person("ann"))
        ann.asking = asking = Asking(pool, registration)
        assert login in (await asking("GET", "/login")).body.decode()
        assert register in (await asking("GET", "/register")).body.decode()
        assert members in (await ann.post("/members/invite", email="bob@example.com", role="member")).body.decode()


async def test_credit_is_ordered_and_confirmed_by_forms(asking: Asking) -> None:
    """What cannot be ordered is said with what was filled in; an order is shown with its code until it has ended."""
    person = await asking.person("ann")
    ann = await Visitor.of(asking, person)
    heard = await ann.post("/credits/purchase", amount="1", reference=HOSTILE[:100])
    assert (heard.status, b"must be from $5.00 to" in heard.body, b"<script>alert" in heard.body) == (400, True, False)
    for reference in (HOSTILE[:100], "second"):
        heard = await ann.post("/credits/purchase", amount="20", reference=reference, idempotency_key=reference)
        assert (heard.status, heard.headers["Location"]) == (303, "/credits?done=ordered")
    second, first = (await asking("GET", "/api/credits/purchases", token=person.token)).body["data"]
    assert first["code"].encode() in (await ann.get("/credits")).body
    assert (await ann.post(f"/credits/purchases/{second['id']}/cancel")).status == 303
    await asking.pool.execute("UPDATE users SET is_operator = true WHERE id = $1", person.id)
    heard = await ann.post(f"/operate/purchases/{first['id']}/confirm", amount="0")
    assert (heard.status, b"<script>alert" in heard.body) == (400, False)
    assert (await ann.post(f"/operate/purchases/{first['id']}/confirm", amount="19.50")).status == 303
    assert (await ann.post(f"/operate/purchases/{first['id']}/decline", reason="x")).status == 409
    shown = (await ann.get("/operate/purchases?state=confirmed&code=")).body
    assert (first["code"].encode() in shown, second["code"].encode() in shown) == (True, False)
    assert b"$19.50" in (await ann.get("/credits")).body


async def test_what_was_read_is_not_counted(asking: Asking) -> None:
    """The bell counts what one has not read; the mark below which credit is low is moved and taken away by its form."""
    person = await asking.person("ann")
    ann = await Visitor.of(asking, person)
    await asking.pool.execute(
        "INSERT INTO notifications (account_id, kind, subject_id, detail)"
        " SELECT $1, 'credit.exhausted', $1, '{}' FROM generate_series(1, 3)",
        person.account_id,
    )
    for left, path in ((2, "/notifications/1/read"), (0, "/notifications/read")):
        assert (await ann.post(path)).status == 303
        shown = (await ann.get("/notifications?unread=1")).body.decode()
        assert (shown.count('<li class="unread">'), f'{left}<span class="hidden"> unread' in shown) == (left, left > 0)
    for below, days, told in (
        ("2.50", "7", b'less than <span class="usd">$2.50'), ("", "7", b"for 7 days at most"), ("", "1", b"for a day at most"),
        ("", "", b"and not before"),
    ):  # fmt: skip
        assert (await ann.post("/credits/mark", below=below, runs_out_days=days)).status == 303
        assert told in (await ann.get("/credits")).body
    for field, text in (("below", "much"), ("runs_out_days", "soon"), ("runs_out_days", "91")):
        heard = await ann.post("/credits/mark", **{"below": "1", field: text})
        assert (heard.status, f'value="{text}"'.encode() in heard.body) == (400, True)


async def test_the_audit_trail_says_who_did_what_and_how_much(asking: Asking) -> None:
    """Users by their names, limits with their caps before and after, money with its amount; by day."""
    owner, operating = await asking.person("ann"), await asking.person("operator")
    await asking.pool.execute("UPDATE users SET is_operator = true WHERE id = $1", operating.id)
    operator = await Visitor.of(asking, operating)
    terms = {"name": "team", "measure": "requests", "window": "day", "cap": 10}
    made = await asking("POST", "/api/budgets", terms, token=owner.token)
    await asking("PATCH", f"/api/budgets/{made.body['id']}", {"cap": 12}, token=owner.token)
    account = made.body["account_id"]
    await asking("POST", f"/api/admin/accounts/{account}/credits", {"amount": "7", "kind": "grant"}, token=ADMIN_TOKEN)
    told = (await operator.get("/operate/audit?since=2020-01-01")).body.decode()
    assert ">ann</a>" in told
    for detail in ("&#34;cap&#34;: 12", "&#34;cap_before&#34;: 10", "&#34;amount_nanos&#34;: 7000000000"):
        assert detail in told or detail.replace("&#34;", '"') in told, detail
    assert "Nothing like this was done" in (await operator.get("/operate/audit?until=2020-01-01")).body.decode()


async def test_a_keys_policy_is_changed_and_cleared_by_its_form(asking: Asking) -> None:
    """Fields that were emptied take a restriction away; a day is a day of UTC."""
    person = await asking.person("ann")
    ann = await Visitor.of(asking, person)
    made = await asking(
        "POST", "/api/keys", {"name": "one", "models": ["a"], "highest_request": "1.00"}, token=person.token
    )
    path = f"/keys/{made.body['id']}"
    heard = await ann.post(
        path, name="two", description="", models="", operations="chat, embedding", networks="", highest_request="0.5",
        expires_at="2040-01-31",
    )  # fmt: skip
    assert heard.status == 303, heard.body
    (key,) = (await asking("GET", "/api/keys", token=person.token)).body["data"]
    assert (key["name"], key["models"], key["operations"]) == ("two", None, ["chat", "embedding"])
    assert (key["highest_request"], key["expires_at"]) == ("0.50", "2040-01-31T00:00:00+00:00")


async def test_a_key_that_is_renamed_ends_when_it_would_have(asking: Asking) -> None:
    """The form has a day, the key an instant: who leaves the day as it is moves nothing, least of all before now."""
    person = await asking.person("ann")
    ann = await Visitor.of(asking, person)
    end = "2040-01-31T18:30:15.250000+00:00"
    made = await asking("POST", "/api/keys", {"name": "one", "expires_at": end}, token=person.token)
    path = f"/keys/{made.body['id']}"
    assert b'type="date" value="2040-01-31"' in (await ann.get(path)).body
    for day, then in (("2040-01-31", end), ("2040-02-01", "2040-02-01T00:00:00+00:00")):
        assert (await ann.post(path, name="two", description="", expires_at=day)).status == 303
        (key,) = (await asking("GET", "/api/keys", token=person.token)).body["data"]
        assert (key["name"], key["expires_at"]) == ("two", then)


async def test_the_snippets_of_a_new_key_name_a_model_that_answers_it(asking: Asking) -> None:
    """The cheapest that chats, of those that the key may use; what only judges texts is none."""
    ann = await Visitor.of(asking, await asking.person("ann"))
    assert b'"model": "cheap"' in (await ann.post("/keys", name="any")).body
    assert b'"model": "dear"' in (await ann.post("/keys", name="one", models="d*, judge")).body
    assert b">judge" not in (await ann.get("/chat")).body


async def test_static_files_are_kept_for_as_long_as_they_are_the_same(asking: Asking) -> None:
    """Under an address that changes with them; nothing but those files is there."""
    for name in static.names():
        heard = await asking("GET", static.address_of(name), headers={"Accept-Encoding": "gzip"})
        assert heard.status == 200, name
        assert "immutable" in heard.headers["Cache-Control"]
        assert heard.headers["X-Content-Type-Options"] == "nosniff"
    assert (await asking("GET", "/static/0/app.css")).headers["Cache-Control"] == "no-cache"
    for name in ("pages.py", "..%2Fpages.py", "%2e%2e", "app.css%00"):
        assert (await asking("GET", f"/static/0/{name}")).status == 404, name


@pytest.mark.parametrize(
    ("nanos", "text"),
    [(0, "0.00"), (7, "0.000000007"), (12_345, "0.0000123"), (940_793_962, "0.941"), (12_345_678_901, "12.35")],
)
def test_what_is_estimated_is_not_shown_to_the_last_digit(nanos: int, text: str) -> None:
    """Three digits of what is below ten dollars, else to the cent."""
    assert about(nanos) == text


def test_what_was_done_is_said_in_our_own_words() -> None:
    """Nobody writes on our pages by a link."""
    assert all(text.endswith(".") and "<" not in text for text in DONE.values())


async def test_names_are_changed_where_they_are_read(asking: Asking) -> None:
    """The organization's and a team's among its members; a provider but for its name; each form says what was done."""
    owner = await asking.person("owner")
    await asking.pool.execute("UPDATE users SET is_operator = true")
    visitor = await Visitor.of(asking, owner)
    assert (await visitor.post("/members/teams", name="one")).status == 303
    page = (await visitor.get("/members")).body.decode()
    assert "<bdi>one</bdi>" in page, "a name that turns its direction would turn what follows it"
    team_id = await asking.pool.fetchval("SELECT id FROM teams")
    provider = {"name": "second", "base_url": "https://second.example/v1", "models": "a*"}
    assert (await visitor.post("/operate/providers", **provider)).status == 303
    provider_id = await asking.pool.fetchval("SELECT id FROM providers")
    for path, fields, done in (
        ("/members/organization", {"name": "Acme"}, "organization-renamed"),
        (f"/members/teams/{team_id}/rename", {"name": "two"}, "team-renamed"),
        (f"/operate/providers/{provider_id}", {"models": "b*, c*", "prices": "groq"}, "provider-changed"),
    ):
        heard = await visitor.post(path, **fields)
        assert (heard.status, heard.headers["Location"].partition("done=")[2]) == (303, done)
    members = (await visitor.get("/members")).body.decode()
    assert 'value="Acme"' in members
    assert 'value="two"' in members
    assert "<dd>b*, c*</dd><dt>Prices of</dt><dd>groq</dd>" in (await visitor.get("/operate/providers")).body.decode()
    told = (await visitor.post(f"/operate/providers/{provider_id}", base_url="ftp://x")).body.decode()
    assert "Address: must begin with http:// or https://" in told
    told = (await visitor.post(f"/operate/providers/{provider_id}", prices="nobodys")).body.decode()
    assert "no prices are known under &#39;nobodys&#39;; there are" in told
    nowhere = await asking("PATCH", f"/api/admin/providers/{provider_id}", {"base_url": ""}, token=ADMIN_TOKEN)
    assert (nowhere.status, nowhere.param) == (400, "base_url")
    heard = await visitor.post(f"/members/teams/{team_id}/remove")
    assert heard.headers["Location"].endswith("done=team-removed")
    assert (await visitor.post("/members/organization", name=" ")).status == 400


async def test_a_budget_is_made_and_changed_on_its_page(asking: Asking) -> None:
    """With all that the API knows of it; requests that run at once have no window, and what is left empty is taken away."""
    owner = await asking.person("owner")
    visitor = await Visitor.of(asking, owner)
    made = {"name": "pictures", "whose": "account", "measure": "requests", "window": "day", "cap": "10"}
    more = {"operation": "image", "time_zone": "Europe/Berlin", "grace": "2", "model": "", "marks": "50"}
    assert (await visitor.post("/budgets", **made, **more)).status == 303
    (budget,) = (await asking("GET", "/api/budgets", token=owner.token)).body["data"]
    assert [budget[name] for name in ("operation", "time_zone", "grace", "cap", "marks", "model")] == [
        "image", "Europe/Berlin", 2, 10, [50], None,
    ]  # fmt: skip
    shown = (await visitor.get("/budgets")).body.decode()
    assert "by day in Europe/Berlin" in shown
    assert "2 beyond the cap" in shown
    change = {"name": "", "cap": "12", "marks": "50, 80", "enforcement": "soft", "grace": ""}
    assert (await visitor.post(f"/budgets/{budget['id']}", **change)).status == 303
    (budget,) = (await asking("GET", "/api/budgets", token=owner.token)).body["data"]
    assert [budget[name] for name in ("name", "cap", "marks", "enforcement", "grace")] == ["", 12, [50, 80], "soft", 0]
    at_once = {**made, "measure": "concurrent", "window": "month", "cap": "4"}
    assert (await visitor.post("/budgets", **at_once)).status == 303
    last = (await asking("GET", "/api/budgets", token=owner.token)).body["data"][-1]
    assert [last[name] for name in ("measure", "window", "cap")] == ["concurrent", None, 4]
    heard = await visitor.post("/budgets", **{**made, "time_zone": "Europe/Nowhere"})
    assert heard.status == 400
    assert "is not a time zone" in heard.body.decode()


async def test_a_budget_is_told_in_words_and_its_numbers_in_groups(asking: Asking) -> None:
    """What it counts is called what the form calls it; one that only counts is renamed without a cap."""
    owner = await asking.person("owner")
    visitor = await Visitor.of(asking, owner)
    for budget in ({"measure": "tokens", "window": "total", "cap": "1,234,567"}, {"measure": "concurrent", "cap": "4"}):
        assert (await visitor.post("/budgets", whose="account", **budget)).status == 303
    counting = await asking("POST", "/api/budgets", {"measure": "requests", "window": "day"}, token=owner.token)
    for path in ("/", "/budgets"):
        text = (await visitor.get(path)).body.decode()
        assert "tokens in all" in text
        assert "1,234,567" in text
        assert "requests at the same time" in text
        assert "per moment" not in text
    assert "Hard limit on tokens in all, for the whole organization." in text
    renamed = await visitor.post(f"/budgets/{counting.body['id']}", name="counts", cap="", marks="", grace="")
    assert renamed.status == 303
    last = (await asking("GET", "/api/budgets", token=owner.token)).body["data"][-1]
    assert (last["name"], last["cap"]) == ("counts", None)
    assert (
        f'id="cap-{last["id"]}" name="cap" inputmode="decimal" value=""'
        in (await visitor.get("/budgets")).body.decode()
    )


async def test_a_report_leads_to_its_requests(asking: Asking) -> None:
    """Each row to those that it counts; of many the dearest or latest are shown, and the file has all of them."""
    owner = await asking.person("owner")
    visitor = await Visitor.of(asking, owner)
    key = (await asking("POST", "/api/keys", {"name": "=one"}, token=owner.token)).body
    await history(asking.pool, [UUID(key["id"])], rows=200, days=20)
    await asking.pool.execute(
        "INSERT INTO conversations (account_id, conversation, requests, amount_nanos, first_at, last_at) "
        "SELECT $1, 'talk ' || n, 2, 3000000000, now() - n * interval '1 minute', now() - n * interval '1 minute' "
        "FROM generate_series(1, 130) n",
        owner.account_id,
    )
    for by, name in (
        ("model", "model"),
        ("operation", "operation"),
        ("key", "key_id"),
        ("user", "user_id"),
        ("day", "from"),
    ):
        report = (await visitor.get(f"/reports?group_by={by}")).body.decode()
        links = re.findall(rf'<tr><td><a href="(/activity\?[^"]*{name}=[^"]*)">.*?<td class="num">(\d+)</td>', report)
        assert links, by
        for link, requests in links[:2]:
            listed = (await visitor.get(link.replace("&amp;", "&"))).body.decode()
            assert min(int(requests), 50) == listed.count('<td><a href="/activity/'), link
    talks = (await visitor.get("/reports?group_by=conversation")).body.decode()
    assert len(re.findall(r"conversation_id=", talks)) == 100
    in_all = await asking.pool.fetchval("SELECT count(*) FROM conversations")
    assert f"{in_all - 100} more have" in talks
    heard = await visitor.get("/reports/usage?group_by=conversation&format=csv")
    rows = list(csv.DictReader(io.StringIO(heard.body.decode(), newline="")))
    assert len(rows) == in_all
    assert {row["amount"] for row in rows if row["conversation"] == "talk 130"} == {"3.00"}
    heard = await asking("GET", "/api/credits/usage?group_by=key&format=csv", token=owner.token)
    assert heard.body.startswith(b"value,name,requests,"), "what a row is about comes first"
    (row,) = csv.DictReader(io.StringIO(heard.body.decode(), newline=""))
    assert (row["name"], row["requests"]) == ("'=one", "200")


async def test_a_usage_is_compared_over_models(asking: Asking) -> None:
    """The cheapest first, with what a report counted or with numbers of one's own; what is no number is said."""
    owner = await asking.person("owner")
    visitor = await Visitor.of(asking, owner)
    page = (await visitor.get("/prices/compare?input_tokens=1000000&output_tokens=500000")).body.decode()
    rows = re.findall(r"<tr><td>(\w+)</td><td>openai</td>.*?\$([\d.]+)</span></td><td class=\"num\">([\d.]+)", page)
    assert rows == [("cheap", "0.60", "1.0"), ("dear", "25.00", "41.7")]
    assert "/prices/compare" in (await visitor.get("/prices")).body.decode()
    heard = await visitor.get("/prices/compare?input_tokens=many")
    assert (heard.status, 'value="many"' in heard.body.decode()) == (400, True)


async def test_what_is_not_there_or_not_allowed_is_a_page_like_the_others(asking: Asking) -> None:
    """With the menu of who looks, and for a browser only: programs get the error that they can read."""
    visitors = await cast(asking)
    browser = {"Accept": "text/html,application/xhtml+xml"}
    for path, status in (
        ("/nothing", 404),
        (f"/keys/{uuid4()}", 404),
        ("/operate/people", 403),
        ("/credits?kind=x", 400),
    ):
        heard = await visitors["owner"].get(path, **browser)
        text = heard.body.decode()
        assert (heard.status, 'aria-label="Pages"' in text, "Go to the overview" in text) == (status, True, True), path
    heard = await asking("GET", "/nothing", headers=browser)
    assert (heard.status, "aria-label" in heard.body.decode()) == (404, False)
    for path, headers in (("/nothing", {}), ("/api/nothing", browser), ("/v1/organization/nothing", browser)):
        assert (await asking("GET", path, headers=headers)).message.startswith("Unknown request URL"), path
    assert (await asking("POST", "/nothing", headers=browser)).message.startswith("Unknown request URL")


async def test_programs_find_the_icon_where_they_look_for_it(asking: Asking) -> None:
    """Without having read a page."""
    heard = await asking("GET", "/favicon.ico")
    assert (heard.status, heard.headers["Content-Type"]) == (200, "image/svg+xml; charset=utf-8")


@pytest.mark.parametrize(("path", "fields", "told"), [
    ("/budgets", {"measure": "amount", "window": "day", "cap": "5", "marks": "many"}, "Tell at: must be a whole number."),
    ("/budgets", {"measure": "requests", "window": "day", "cap": "1.5"}, "Cap: must be a whole number."),
    ("/keys", {"name": ""}, "Name: must not be empty."),
    ("/keys", {"name": "k", "highest_request": "-1"}, "Dearest request: must be above 0."),
    ("/members/invite", {"email": "ann@example.com", "role": "king"},
     "Role: must be owner, admin, billing, member or viewer."),
])  # fmt: skip
async def test_a_form_is_refused_in_our_own_words(asking: Asking, path: str, fields: dict[str, str], told: str) -> None:
    """By the name that its field has on the page."""
    visitor = await Visitor.of(asking, await asking.person("owner"))
    assert told in (await visitor.post(path, **fields)).body.decode()


async def test_providers_of_the_configuration_are_shown_and_cannot_be_changed(database: str) -> None:
    """With where they are and whether they have a key, of which nothing is told; one that they hide is said to be hidden."""
    configured = {
        "openai": Provider.model_validate({"base_url": "https://api.openai.example/v1", "api_key": "sk-of-the-file"}),
        "local": Provider.model_validate({"base_url": "http://localhost:9/v1", "models": ["llama*"]}),
    }
    async with pool_of(database) as pool:
        asking = Asking(pool, configured=configured)
        person = await asking.person("operator")
        await pool.execute("UPDATE users SET is_operator = true")
        told = (await asking("GET", "/api/admin/providers", token=ADMIN_TOKEN)).body
        assert [(one["name"], one["has_key"], one["models"]) for one in told["configured"]] == [
            ("openai", True, ["*"]), ("local", False, ["llama*"]),
        ]  # fmt: skip
        visitor = await Visitor.of(asking, person)
        await visitor.post("/operate/providers", name="openai", base_url="https://other.example/v1")
        page = (await visitor.get("/operate/providers")).body.decode()
    assert page.index("https://api.openai.example/v1") < page.index("http://localhost:9/v1")
    assert page.count("set in the configuration</span>") == 2
    assert "left out: the configuration has this name" in page
    assert "sk-of-the-file" not in page
    assert page.count('/remove"') == 1


async def test_amounts_are_grouped_where_they_are_read(asking: Asking) -> None:
    """Not where they are filled in, which takes no commas."""
    owner = await asking.person("owner")
    grant = {"amount": "-12345.5", "kind": "adjustment"}
    await asking("POST", f"/admin/accounts/{owner.account_id}/credits", grant, token=ADMIN_TOKEN)
    visitor = await Visitor.of(asking, owner)
    page = (await visitor.get("/credits")).body.decode()
    assert "−$12,345.50" in page
    assert "$10,000.00" in page, "the most that may be ordered"
    made = {"name": "b", "whose": "account", "measure": "amount", "window": "month", "cap": "2500"}
    await visitor.post("/budgets", **made)
    budgets = (await visitor.get("/budgets")).body.decode()
    assert "<dd>$2,500.00</dd>" in budgets
    assert 'value="2500.00"' in budgets


async def test_a_page_says_that_the_database_is_away_without_waiting_for_it_twice(
    asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one that hangs, each look takes seconds."""
    visitor = await Visitor.of(asking, await asking.person("owner"))
    looks = []

    def hang_up(_pool: asyncpg.Pool, **settings: float) -> None:
        looks.append(settings)
        raise StoreUnavailable("away")

    monkeypatch.setattr(asyncpg.Pool, "acquire", hang_up)
    heard = await visitor.get("/keys")
    assert (heard.status, len(looks)) == (503, 1), looks
