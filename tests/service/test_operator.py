"""The operator's API on a running service: what it grants, every way it refuses, and policies that hold on /v1."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
import pytest_asyncio

from tests.service.running import ADMIN_TOKEN, Service

pytestmark = pytest.mark.asyncio(loop_scope="session")

CHAT = "/v1/chat/completions"
HELLO = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 5}
NOBODY = "0199e0a0-0000-7000-8000-000000000000"
REVOCATION_SECONDS = 5
"""Far above the promised second: what is tested is that it happens, not how fast this machine is today."""


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    status: int
    headers: Any
    body: bytes
    json: Any

    @property
    def error(self) -> dict[str, Any]:
        """The error, after a look at its shape."""
        assert set(self.json) == {"error"}
        error: dict[str, Any] = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return error


class Caller:
    """A plain HTTP client of the service."""

    def __init__(self, session: aiohttp.ClientSession, origin: str) -> None:
        self.session = session
        self.origin = origin

    async def __call__(
        self, method: str, path: str, body: Any = None, *, token: str | None = ADMIN_TOKEN, raw: bytes | None = None
    ) -> Answer:
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        content = {"data": BytesIO(raw)} if raw is not None else {"json": body} if body is not None else {}
        async with self.session.request(method, self.origin + path, headers=headers, **content) as answer:
            read = await answer.read()
            is_json = read and answer.headers.get("Content-Type") == "application/json"
            return Answer(answer.status, answer.headers, read, await answer.json() if is_json else None)

    async def chat(self, key: str, **changes: Any) -> Answer:
        return await self("POST", CHAT, {**HELLO, **changes}, token=key)


@pytest_asyncio.fixture(loop_scope="session")
async def call(shared: Service) -> AsyncIterator[Caller]:
    async with aiohttp.ClientSession() as session:
        yield Caller(session, shared.origin)


async def made_account(call: Caller) -> str:
    answer = await call("POST", "/admin/accounts", {"name": "Acme"})
    assert answer.status == 201
    return str(answer.json["id"])


# ── accounts and credit ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_new_account_has_nothing_and_is_found_again(call: Caller) -> None:
    """Creation answers 201 with the whole account; reading it gives the same."""
    made = await call("POST", "/admin/accounts", {"name": "Acme"})
    assert made.status == 201
    account = made.json
    assert account["organization"]["name"] == "Acme"
    nanos = ("balance_nanos", "leased_nanos", "held_nanos", "available_nanos", "overdraft_nanos")
    assert [account[name] for name in nanos] == [0] * 5
    assert account["balance"] == "0.00"
    read = await call("GET", f"/admin/accounts/{account['id']}")
    assert {**read.json, "as_of": None} == {**account, "as_of": None}


@pytest.mark.parametrize(
    ("kind", "amount", "told"),
    [
        ("grant", "5.00", "5.00"),
        ("purchase", "0.000000001", "0.000000001"),
        ("refund", "1.5", "1.50"),
        ("adjustment", "-2", "-2.00"),
        ("grant", "2000000000", "2000000000.00"),
    ],
)
async def test_credit_is_booked_to_the_nanodollar(call: Caller, kind: str, amount: str, told: str) -> None:
    """Every kind that people may book, as text with two to nine decimals and as an exact integer."""
    account = await made_account(call)
    entry = await call("POST", f"/admin/accounts/{account}/credits", {"amount": amount, "kind": kind})
    assert entry.status == 201
    assert (entry.json["kind"], entry.json["amount"], entry.json["entry_no"]) == (kind, told, 1)
    balance = (await call("GET", f"/admin/accounts/{account}")).json
    assert balance["balance_nanos"] == entry.json["amount_nanos"] == entry.json["balance_after_nanos"]
    assert balance["balance"] == told


@pytest.mark.parametrize(
    ("param", "body"),
    [
        *(
            ("amount", {"amount": amount, "kind": "grant"})
            for amount in (
                "0", "0.000000000", "-1", "NaN", "Infinity", "1e3", "+1", " 1", "", "1.", ".5", "0x1", "1,0", "٣",
                "1.0000000001", "9999999999", "3000000000", "99999999999999999999", 5, 5.0, True, None, [], {},
            )
        ),
        ("amount", {"kind": "grant"}),
        ("amount", {"amount": "0", "kind": "adjustment"}),
        ("amount", {"amount": "-1", "kind": "refund"}),
        ("kind", {"amount": "1"}),
        ("kind", {"amount": "1", "kind": "deduction"}),
        ("kind", {"amount": "1", "kind": None}),
        ("description", {"amount": "1", "kind": "grant", "description": 5}),
        ("description", {"amount": "1", "kind": "grant", "description": "a\0b"}),
        ("description", {"amount": "1", "kind": "grant", "description": "x" * 2001}),
        ("idempotency_key", {"amount": "1", "kind": "grant", "idempotency_key": ""}),
        ("idempotency_key", {"amount": "1", "kind": "grant", "idempotency_key": "x" * 201}),
        ("currency", {"amount": "1", "kind": "grant", "currency": "EUR"}),
    ],
)  # fmt: skip
async def test_senseless_credit_is_refused_by_name(call: Caller, shared: Service, param: str, body: Any) -> None:
    """400 in OpenAI's shape that names the member, and nothing is booked."""
    account = await made_account(call)
    answer = await call("POST", f"/admin/accounts/{account}/credits", body)
    assert answer.status == 400
    assert (answer.error["type"], answer.error["param"], answer.error["code"]) == ("invalid_request_error", param, None)
    assert (await call("GET", f"/admin/accounts/{account}/transactions")).json == {"data": [], "next_cursor": None}


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"null", b'"x"', b'{"amount": NaN}', b"\xff", b"[" * 5000, b'{"name": "\\ud800"}']
)
async def test_a_body_that_is_no_object_is_refused(call: Caller, raw: bytes) -> None:
    """Whatever is sent instead of a JSON object is a 400 that names no member."""
    for path in ("/admin/accounts", f"/admin/accounts/{NOBODY}/credits", "/admin/keys"):
        answer = await call("POST", path, raw=raw)
        assert (answer.status, answer.error["param"]) == (400, None)


async def test_a_bodys_own_words_come_back_short_and_printable(call: Caller) -> None:
    """An unknown member is named in an excerpt, without what could forge lines of a log."""
    answer = await call("POST", "/admin/accounts", {"name": "Acme", "x\n" * 5000: 1})
    assert answer.status == 400
    assert answer.error["param"].startswith("xxx")
    assert len(answer.body) < 1000


async def test_credits_past_what_books_can_hold_are_refused(call: Caller) -> None:
    """Two grants that are fine alone may not overflow together, up or down."""
    account = await made_account(call)
    path = f"/admin/accounts/{account}/credits"
    assert (await call("POST", path, {"amount": "2000000000", "kind": "grant"})).status == 201
    again = await call("POST", path, {"amount": "2000000000", "kind": "grant"})
    assert (again.status, again.error["param"]) == (400, "amount")
    down = await call("POST", path, {"amount": "-9000000000", "kind": "adjustment"})
    assert (down.status, down.error["param"]) == (400, "amount")
    assert (await call("GET", f"/admin/accounts/{account}")).json["balance"] == "2000000000.00"


async def test_an_idempotency_key_books_once(call: Caller) -> None:
    """Ten at once are one entry; another body under the key is a conflict; another account knows nothing of it."""
    account, other = await made_account(call), await made_account(call)
    body = {"amount": "1.00", "kind": "grant", "description": "pilot", "idempotency_key": "k1"}
    path = f"/admin/accounts/{account}/credits"
    answers = await asyncio.gather(*(call("POST", path, body) for _ in range(10)))
    assert {answer.status for answer in answers} == {201}
    assert len({answer.body for answer in answers}) == 1
    for changed in ({"amount": "1.01"}, {"kind": "purchase"}, {"description": "other"}):
        conflict = await call("POST", path, body | changed)
        assert (conflict.status, conflict.error["code"], conflict.error["param"]) == (
            409,
            "conflict",
            "idempotency_key",
        )
    assert (await call("POST", path, body | {"amount": "1"})).body == answers[0].body
    assert (await call("GET", f"/admin/accounts/{account}")).json["balance"] == "1.00"
    assert (await call("POST", f"/admin/accounts/{other}/credits", body)).json["entry_no"] == 1


async def test_fresh_balances_have_what_was_answered_before(call: Caller, shared: Service) -> None:
    """With ?fresh=1 the balance has an exchange the moment its answer is here."""
    account, key = await shared.customer("1.00")
    answer = await call.chat(key)
    assert answer.status == 200
    fresh = (await call("GET", f"/admin/accounts/{account}?fresh=1")).json
    assert answer.headers["x-meterproxy-balance"] == fresh["balance"]
    assert (fresh["held_nanos"], fresh["available_nanos"]) == (0, fresh["balance_nanos"])


# ── lists ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def paged(call: Caller, path: str, limit: int) -> list[list[Any]]:
    """All pages of a list."""
    pages, cursor = [], ""
    while True:
        separator = "&" if "?" in path else "?"
        page = (await call("GET", f"{path}{separator}limit={limit}{cursor}")).json
        assert set(page) == {"data", "next_cursor"}
        pages.append(page["data"])
        if page["next_cursor"] is None:
            return pages
        cursor = f"&cursor={page['next_cursor']}"


async def test_transactions_page_newest_first(call: Caller) -> None:
    """Seven entries in threes: three pages, none empty, each entry once."""
    account = await made_account(call)
    for _ in range(7):
        await call("POST", f"/admin/accounts/{account}/credits", {"amount": "1", "kind": "grant"})
    pages = await paged(call, f"/admin/accounts/{account}/transactions", 3)
    assert [[entry["entry_no"] for entry in page] for page in pages] == [[7, 6, 5], [4, 3, 2], [1]]
    assert pages[0][0]["balance_after"] == "7.00"
    assert len(await paged(call, f"/admin/accounts/{account}/transactions", 7)) == 1


async def test_accounts_and_keys_page_in_the_order_they_were_made(call: Caller) -> None:
    """Every account shows up once; keys only of the account that is asked for."""
    accounts = [await made_account(call) for _ in range(3)]
    listed = [row["id"] for page in await paged(call, "/admin/accounts", 2) for row in page]
    assert listed == sorted(set(listed))
    assert [account for account in listed if account in accounts] == accounts
    keys = [
        (await call("POST", "/admin/keys", {"account_id": accounts[0], "name": str(number)})).json
        for number in range(4)
    ]
    pages = await paged(call, f"/admin/keys?account_id={accounts[0]}", 2)
    assert [[row["id"] for row in page] for page in pages] == [
        [key["id"] for key in keys[at : at + 2]] for at in (0, 2)
    ]
    assert await paged(call, f"/admin/keys?account_id={accounts[1]}", 2) == [[]]
    secrets = [key["key"] for key in keys]
    assert not any(secret in str(pages) for secret in secrets)


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("/admin/accounts?limit=0", "limit"),
        ("/admin/accounts?limit=501", "limit"),
        ("/admin/accounts?limit=-1", "limit"),
        ("/admin/accounts?limit=9999999999999999999999999", "limit"),
        ("/admin/accounts?limit=%D9%A3", "limit"),
        ("/admin/accounts?cursor=x", "cursor"),
        ("/admin/keys?account_id=x", "account_id"),
        ("/admin/keys?cursor=x", "cursor"),
        (f"/admin/accounts/{NOBODY}/transactions?cursor=x", "cursor"),
        (f"/admin/accounts/{NOBODY}/transactions?cursor=-1", "cursor"),
    ],
)
async def test_faults_in_a_query_are_named(call: Caller, path: str, param: str) -> None:
    """400 with the name of what is wrong."""
    answer = await call("GET", path)
    assert (answer.status, answer.error["param"]) == (400, param)


# ── keys ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_key_shows_its_secret_once(call: Caller, shared: Service) -> None:
    """The answer to its creation has everything promised; the list has all but the secret."""
    account = await made_account(call)
    made = (await call("POST", "/admin/keys", {"account_id": account, "name": "laptop"})).json
    assert {"id", "key", "prefix", "account_id", "user_id", "name", "created_at"} <= set(made)
    assert re.fullmatch(r"mp-[A-Za-z0-9_-]{43}", made["key"])
    assert made["key"].startswith(made["prefix"])
    (listed,) = (await call("GET", f"/admin/keys?account_id={account}")).json["data"]
    assert listed == {name: value for name, value in made.items() if name != "key"}
    assert made["key"] not in shared.log_text()


@pytest.mark.parametrize(
    ("status", "param", "body"),
    [
        (400, "account_id", {"account_id": None}),
        (400, "account_id", {"account_id": "x"}),
        (404, "account_id", {"account_id": NOBODY}),
        (400, "name", {"name": ""}),
        (400, "name", {"name": "x" * 201}),
        (400, "name", {"name": 5}),
        (400, "user_id", {"user_id": "me"}),
        (404, "user_id", {"user_id": NOBODY}),
        (400, "models", {"models": "gpt-4o"}),
        (400, "models.1", {"models": ["gpt-4o", ""]}),
        (400, "models", {"models": ["x"] * 101}),
        (400, "operations.0", {"operations": ["chatt"]}),
        (400, "networks.0", {"networks": ["10.0.0.1/8"]}),
        (400, "networks.0", {"networks": ["localhost"]}),
        (400, "networks.0", {"networks": [5]}),
        (400, "highest_request", {"highest_request": "0"}),
        (400, "highest_request", {"highest_request": "-1"}),
        (400, "highest_request", {"highest_request": 1}),
        (400, "expires_at", {"expires_at": "tomorrow"}),
        (400, "expires_at", {"expires_at": "2020-01-01T00:00:00Z"}),
        (400, "expires_at", {"expires_at": 1_800_000_000}),
        (400, "expires_at", {"expires_at": "2030-01-01T00:00:00"}),
        (400, "expires_at", {"expires_at": "9999-12-31T23:59:59-23:00"}),
        (400, "expires_at", {"expires_at": "0001-01-01T00:00:00+23:00"}),
        (400, "limit", {"limit": 1}),
    ],
)
async def test_senseless_keys_are_refused_by_name(call: Caller, status: int, param: str, body: Any) -> None:
    """Nothing is converted in silence: what a policy cannot mean is refused, and no key is made."""
    account = await made_account(call)
    answer = await call("POST", "/admin/keys", {"account_id": account, "name": "k", **body})
    assert (answer.status, answer.error["param"]) == (status, param)
    assert (await call("GET", f"/admin/keys?account_id={account}")).json["data"] == []


async def test_a_user_of_another_organization_owns_no_key(call: Caller, shared: Service) -> None:
    """A user exists for its own organization only."""
    account, other = await made_account(call), await made_account(call)
    foreign = (await call("POST", "/admin/keys", {"account_id": other, "name": "k"})).json["user_id"]
    answer = await call("POST", "/admin/keys", {"account_id": account, "name": "k", "user_id": foreign})
    assert (answer.status, answer.error["param"]) == (404, "user_id")


@pytest.mark.parametrize(
    ("policy", "changes", "status", "code"),
    [
        ({"models": ["gpt-4o*"]}, {}, 200, None),
        ({"models": ["gpt-4o*"]}, {"model": "gpt-4.1"}, 404, "model_not_found"),
        ({"models": ["GPT-4o*"]}, {}, 404, "model_not_found"),
        ({"models": []}, {}, 404, "model_not_found"),
        ({"models": ["o3", "gpt-4o-mini"]}, {}, 200, None),
        ({"operations": ["embedding", "chat"]}, {}, 200, None),
        ({"operations": ["embedding"]}, {}, 403, "permission_denied"),
        ({"networks": ["127.0.0.0/8"]}, {}, 200, None),
        ({"networks": ["10.0.0.0/8", "::1/128"]}, {}, 403, "permission_denied"),
        ({"highest_request": "0.01"}, {}, 200, None),
        ({"highest_request": "0.01"}, {"max_tokens": 16384, "n": 2}, 403, "permission_denied"),
        ({"highest_request": "0.000000001"}, {"max_tokens": None}, 403, "permission_denied"),
        ({"expires_at": "9999-12-31T23:59:59Z"}, {}, 200, None),
    ],
)
async def test_policies_hold_on_the_data_plane(
    call: Caller, shared: Service, policy: Any, changes: Any, status: int, code: str | None
) -> None:
    """A key may do what its policy says and nothing else; what is refused costs nothing."""
    account, key = await shared.customer(**policy)
    answer = await call.chat(key, **changes)
    assert answer.status == status, answer.json
    if code is not None:
        assert answer.error["code"] == code
        assert await shared.balance_nanos(account) == 5 * 10**9


async def test_a_highest_request_lowers_an_unnamed_maximum(call: Caller, shared: Service) -> None:
    """Where the client named no maximum, the answer is limited to what one request of the key may cost."""
    _, key = await shared.customer(highest_request="0.002")
    answer = await call.chat(key, max_tokens=None)
    assert answer.status == 200
    assert 256 <= int(answer.headers["x-meterproxy-max-tokens"]) <= 3333


async def test_a_key_lists_only_the_models_it_may_use(call: Caller, shared: Service) -> None:
    """What is not listed does not exist."""
    _, key = await shared.customer(models=["gpt-4o*", "o3"])
    names = {model["id"] for model in (await call("GET", "/v1/models", token=key)).json["data"]}
    assert {"gpt-4o", "gpt-4o-mini", "o3"} <= names
    assert all(name.startswith("gpt-4o") or name == "o3" for name in names)
    assert (await call("GET", "/v1/models/gpt-4.1", token=key)).error["code"] == "model_not_found"


async def test_a_key_ends_at_the_instant_it_expires(call: Caller, shared: Service) -> None:
    """A key that worked is refused from its expiry on, without anybody revoking it."""
    _, key = await shared.customer(expires_at=(datetime.now(UTC) + timedelta(seconds=1)).isoformat())
    assert (await call("GET", "/v1/models", token=key)).status == 200
    assert (await until_refused(call, key)).error["code"] == "invalid_api_key"


async def until_refused(call: Caller, key: str) -> Answer:
    """Ask for models until the key is refused."""
    async with asyncio.timeout(REVOCATION_SECONDS):
        while (answer := await call("GET", "/v1/models", token=key)).status == 200:
            await asyncio.sleep(0.02)
    return answer


async def test_a_revoked_key_is_refused_and_stays_so(call: Caller, shared: Service) -> None:
    """Revoking reaches the worker that knows the key; twice is once; other keys of the account go on."""
    account = await made_account(call)
    await call("POST", f"/admin/accounts/{account}/credits", {"amount": "1", "kind": "grant"})
    first, second = [(await call("POST", "/admin/keys", {"account_id": account, "name": "k"})).json for _ in range(2)]
    assert (await call.chat(first["key"])).status == 200
    revoked = await call("DELETE", f"/admin/keys/{first['id']}")
    assert revoked.status == 200
    refused = await until_refused(call, first["key"])
    assert (refused.status, refused.error["code"]) == (401, "invalid_api_key")
    assert (await call("DELETE", f"/admin/keys/{first['id']}")).json["revoked_at"] == revoked.json["revoked_at"]
    assert (await call.chat(second["key"])).status == 200


async def test_credit_reaches_a_worker_that_has_just_refused(call: Caller, shared: Service) -> None:
    """An account that was refused for want of credit is served once it has some."""
    account, key = await shared.customer("0")
    refused = await call.chat(key)
    assert (refused.status, refused.error["code"]) == (429, "insufficient_quota")
    await call("POST", f"/admin/accounts/{account}/credits", {"amount": "1", "kind": "purchase"})
    async with asyncio.timeout(REVOCATION_SECONDS):
        while (await call.chat(key)).status != 200:
            await asyncio.sleep(0.02)


# ── one request's row ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_row_of_a_request_explains_its_amount(call: Caller, shared: Service) -> None:
    """From bound to entry, and the parts of its price add up to what was charged."""
    account, key = await shared.customer("1.00")
    answer = await call.chat(key, max_tokens=7)
    await call("GET", f"/admin/accounts/{account}?fresh=1")
    row = (await call("GET", f"/admin/usage/{answer.headers['x-meterproxy-request-id']}")).json
    assert (row["account_id"], row["operation"], row["outcome"], row["status"]) == (account, "chat", "completed", 200)
    usage = answer.json["usage"]
    assert row["usage"] == {"input": usage["prompt_tokens"], "output": usage["completion_tokens"], "requests": 1}
    assert row["bound"]["output_tokens"] == 7
    total = sum(part["count"] * part["nanos_per_unit_size"] for part in row["price"]["parts"])
    assert -(-total // 10**6) == round(float(answer.headers["x-meterproxy-cost"]) * 1e9)
    (entry,) = row["entries"]
    assert (entry["kind"], entry["amount"]) == ("deduction", f"-{answer.headers['x-meterproxy-cost']}")


# ── who may, and how ────────────────────────────────────────────────────────────────────────────────────────────────

PATHS = {
    "/healthz": "GET",
    "/readyz": "GET",
    "/metrics": "GET",
    "/admin/accounts": "GET POST",
    f"/admin/accounts/{NOBODY}": "GET PATCH",
    "/admin/fleet": "GET PATCH",
    "/admin/hosts": "GET",
    "/admin/hosts/nobody": "PATCH",
    f"/admin/accounts/{NOBODY}/credits": "POST",
    f"/admin/accounts/{NOBODY}/transactions": "GET",
    "/admin/keys": "GET POST",
    f"/admin/keys/{NOBODY}": "DELETE PATCH",
    "/admin/limits": "GET POST",
    f"/admin/limits/{NOBODY}": "DELETE GET PATCH",
    f"/admin/limits/{NOBODY}/status": "GET",
    "/admin/teams": "GET POST",
    f"/admin/usage/{NOBODY}": "GET",
}
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


@pytest.mark.parametrize("path", PATHS)
async def test_methods(call: Caller, path: str) -> None:
    """A method that a path does not take is a 405 that says which it takes; HEAD goes wherever GET does."""
    taken = PATHS[path].split()
    expected = ", ".join(sorted({*taken, *(["HEAD"] if "GET" in taken else [])}))
    for method in METHODS:
        if method not in taken:
            answer = await call(method, path)
            assert (answer.status, answer.headers["Allow"]) == (405, expected)
            assert answer.error["code"] == "method_not_supported"
    head = await call("HEAD", path)
    assert head.body == b""
    assert head.status == ((await call("GET", path)).status if "GET" in taken else 405)


@pytest.mark.parametrize("token", [None, "", "wrong", ADMIN_TOKEN + "x", ADMIN_TOKEN[:-1], "mp-key", "ä"])
async def test_without_the_operators_token_nothing_is_told(call: Caller, token: str | None) -> None:
    """401 for every path below /admin, existing or not, whatever the method."""
    for path in [path for path in PATHS if path.startswith("/admin")] + ["/admin/nothing", "/admin/"]:
        for method in ("GET", "POST", "OPTIONS"):
            answer = await call(method, path, token=token)
            assert (answer.status, answer.error["code"]) == (401, "invalid_admin_token")
            assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_a_customers_key_opens_nothing_of_the_operators(call: Caller, shared: Service) -> None:
    """A key is no admin token, and the admin token no key."""
    _, key = await shared.customer()
    assert (await call("GET", "/admin/accounts", token=key)).status == 401
    assert (await call.chat(ADMIN_TOKEN)).error["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/admin/accounts/{id}", None),
        ("POST", "/admin/accounts/{id}/credits", {"amount": "1", "kind": "grant"}),
        ("GET", "/admin/accounts/{id}/transactions", None),
        ("DELETE", "/admin/keys/{id}", None),
        ("GET", "/admin/usage/{id}", None),
    ],
)
async def test_unknown_ids_are_404(call: Caller, method: str, path: str, body: Any) -> None:
    """Whether an id could be one or not."""
    for id_ in (str(uuid4()), "nope", "%00", "..%2f"):
        answer = await call(method, path.replace("{id}", id_), body)
        assert (answer.status, answer.error["type"]) == (404, "invalid_request_error")


@pytest.mark.parametrize("path", ["/admin/nothing", "/nothing", "/v1", "/healthz/", "/admin/accounts/", "/Healthz"])
async def test_unknown_paths_are_404(call: Caller, path: str) -> None:
    """In OpenAI's shape."""
    answer = await call("GET", path)
    assert (answer.status, answer.error["code"]) == (404, "unknown_url")


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
async def test_machines_need_no_token_on_loopback(call: Caller, path: str) -> None:
    """Health, readiness and, on loopback, metrics are open."""
    assert (await call("GET", path, token=None)).status == 200


async def test_bodies_are_limited(call: Caller) -> None:
    """A mebibyte is read (and is no account); one byte more is refused before it is."""
    name = b'{"name": "%s"}'
    full = name % (b"x" * ((1 << 20) - len(name) + 2))
    assert (await call("POST", "/admin/accounts", raw=full)).error["param"] == "name"
    over = await call("POST", "/admin/accounts", raw=full + b" ")
    assert (over.status, over.error["code"]) == (413, "request_too_large")


async def test_a_body_of_the_data_plane_is_refused_by_its_declared_length(shared: Service) -> None:
    """A length above `max_body_bytes` is a 413 before a byte of the body is waited for."""
    _, key = await shared.customer()
    reader, writer = await asyncio.open_connection("127.0.0.1", shared.port)
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: {(64 << 20) + 1}\r\n\r\n"
    writer.write(head.encode())
    async with asyncio.timeout(REVOCATION_SECONDS):
        answered = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readuntil(b"}}")
    writer.close()
    assert answered.startswith(b"HTTP/1.1 413 ")
    assert b'"code":"request_too_large"' in body


async def test_head_and_options_of_the_data_plane(call: Caller, shared: Service) -> None:
    """HEAD is GET without its body; OPTIONS, of which no web page has need yet, says what a path takes."""
    _, key = await shared.customer()
    got, head = [await call(method, "/v1/models", token=key) for method in ("GET", "HEAD")]
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", str(len(got.body)))
    options = await call("OPTIONS", CHAT, token=None)
    assert (options.status, options.headers["Allow"]) == (405, "GET, HEAD, POST")
    assert options.error["code"] == "method_not_supported"
