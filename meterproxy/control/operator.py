"""The operator's endpoints: what may be done with the admin token, each a row of a table.

Rules
-----
- The token is compared in constant time; without it nothing about a path is told but 401.
- A store that is away is a 503, a foreign or unknown id a 404, a fault in a body or query a 400 that names it.
"""

import hmac
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from aiohttp import web

from meterproxy.control import answers, bodies
from meterproxy.control.answers import json_answer
from meterproxy.errors import ApiError, Case, StoreUnavailable
from meterproxy.proxy.paths import Match, Paths
from meterproxy.store.accounts import Accounts
from meterproxy.store.keys import Keys

MOST_ROWS: Final = 500
DEFAULT_ROWS: Final = 50
DIGITS: Final = 19
"""Of the longest number that a query may hold."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the rest of the worker answers for it: `unready` says why it cannot serve, or None."""

    unready: Callable[[], str | None]
    metrics: Callable[[], Awaitable[tuple[bytes, str]]]
    settle_now: Callable[[], Awaitable[None]]
    explain: Callable[[UUID], Awaitable[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Call:
    """One request, as the endpoints see it."""

    ids: tuple[str, ...]
    query: Mapping[str, str]
    body: bytes

    def id(self) -> UUID:
        """The id in the path. Raises ApiError NOT_FOUND where it is no id at all."""
        try:
            return UUID(self.ids[0])
        except ValueError as error:
            raise ApiError(Case.NOT_FOUND, "There is nothing under this id.") from error

    def id_in_query(self, name: str) -> UUID | None:
        text = self.query.get(name)
        try:
            return UUID(text) if text else None
        except ValueError as error:
            raise ApiError(Case.MALFORMED, f"{name} is not an id.", param=name) from error

    def number(self, name: str, default: int | None, most: int) -> int | None:
        text = self.query.get(name)
        if text is None:
            return default
        number = int(text) if text.isascii() and text.isdigit() and len(text) <= DIGITS else 0
        if not 1 <= number <= most:
            raise ApiError(Case.MALFORMED, f"{name} must be a number from 1 to {most}.", param=name)
        return number

    def limit(self) -> int:
        return self.number("limit", DEFAULT_ROWS, MOST_ROWS) or DEFAULT_ROWS


Endpoint = Callable[["OperatorApi", Call], Awaitable[web.Response]]


class OperatorApi:
    """Answers everything outside of the data plane."""

    def __init__(
        self, accounts: Accounts, keys: Keys, machine: Machine, admin_token: str, *, open_metrics: bool
    ) -> None:
        self.accounts = accounts
        self.keys = keys
        self.machine = machine
        self._token = admin_token.encode()
        self._open_metrics = open_metrics

    def admit(self, request: web.BaseRequest) -> Match[Mapping[str, Endpoint]]:
        """Judge a request by its head, before its body is read; raises ApiError."""
        match = _PATHS.match(request.raw_path.partition("?")[0])
        if match is None:
            self._check_token_below_admin(request)
            raise ApiError(Case.PATH_UNKNOWN, f"Unknown request URL: {request.method} {request.path[:200]}.")
        methods = match.route
        method = "GET" if request.method == "HEAD" else request.method
        if not self._is_open(methods):
            self._check_token(request)
        if method not in methods:
            allowed = ", ".join(sorted({*methods, "HEAD"} if "GET" in methods else methods))
            raise ApiError(Case.METHOD_NOT_ALLOWED, f"This path takes {allowed}.", headers={"Allow": allowed})
        return match

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; raises ApiError."""
        match = self.admit(request)
        endpoint = match.route["GET" if request.method == "HEAD" else request.method]
        try:
            return await endpoint(self, Call(match.ids, request.query, await request.read()))
        except StoreUnavailable as error:
            raise ApiError(Case.UNAVAILABLE, "The database is not available right now.") from error

    def _is_open(self, methods: "Mapping[str, Endpoint]") -> bool:
        return methods in _ALWAYS_OPEN or (self._open_metrics and methods is _METRICS)

    def _check_token_below_admin(self, request: web.BaseRequest) -> None:
        if request.raw_path.partition("?")[0].startswith("/admin/"):
            self._check_token(request)

    def _check_token(self, request: web.BaseRequest) -> None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        given = token.strip().encode("utf-8", "surrogateescape")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given, self._token):
            raise ApiError(
                Case.ADMIN_TOKEN_INVALID, "This needs the admin token.", headers={"WWW-Authenticate": "Bearer"}
            )


async def _healthz(_api: OperatorApi, _call: Call) -> web.Response:
    return json_answer({"status": "ok"})


async def _readyz(api: OperatorApi, _call: Call) -> web.Response:
    reason = api.machine.unready()
    return (
        json_answer({"status": "ready"})
        if reason is None
        else json_answer({"status": "unready", "reason": reason}, 503)
    )


async def _metrics(api: OperatorApi, _call: Call) -> web.Response:
    body, content_type = await api.machine.metrics()
    return web.Response(body=body, headers={"Content-Type": content_type})


async def _create_account(api: OperatorApi, call: Call) -> web.Response:
    return json_answer(answers.account(await api.accounts.create(bodies.read(bodies.NewAccount, call.body).name)), 201)


async def _list_accounts(api: OperatorApi, call: Call) -> web.Response:
    rows = await api.accounts.list(call.id_in_query("cursor"), call.limit() + 1)
    return json_answer(answers.page([answers.account(row) for row in rows], call.limit(), "id"))


async def _read_account(api: OperatorApi, call: Call) -> web.Response:
    if call.query.get("fresh") == "1":
        await api.machine.settle_now()
    return json_answer(answers.account(await api.accounts.read(call.id())))


async def _credit(api: OperatorApi, call: Call) -> web.Response:
    new = bodies.read(bodies.NewCredit, call.body)
    row = await api.accounts.credit(call.id(), new.amount, new.kind, new.description, new.idempotency_key)
    return json_answer(answers.entry(row), 201)


async def _transactions(api: OperatorApi, call: Call) -> web.Response:
    before = call.number("cursor", None, 2**62)
    rows = await api.accounts.entries(call.id(), before, call.limit() + 1)
    return json_answer(answers.page([answers.entry(row) for row in rows], call.limit(), "entry_no"))


async def _create_key(api: OperatorApi, call: Call) -> web.Response:
    new = bodies.read(bodies.NewKeyBody, call.body)
    key = await api.keys.create(
        new.account_id,
        new.name,
        user_id=new.user_id,
        description=new.description,
        policy=new.policy,
        expires_at=new.expiry,
    )
    return json_answer(answers.new_key(key), 201)


async def _list_keys(api: OperatorApi, call: Call) -> web.Response:
    rows = await api.keys.list(call.id_in_query("account_id"), call.id_in_query("cursor"), call.limit() + 1)
    return json_answer(answers.page([answers.key(row) for row in rows], call.limit(), "id"))


async def _revoke_key(api: OperatorApi, call: Call) -> web.Response:
    return json_answer(answers.key(await api.keys.revoke(call.id())))


async def _usage(api: OperatorApi, call: Call) -> web.Response:
    return json_answer(await api.machine.explain(call.id()))


_HEALTH: Final[Mapping[str, Endpoint]] = {"GET": _healthz}
_READINESS: Final[Mapping[str, Endpoint]] = {"GET": _readyz}
_METRICS: Final[Mapping[str, Endpoint]] = {"GET": _metrics}
_ALWAYS_OPEN: Final = (_HEALTH, _READINESS)

ENDPOINTS: Final[tuple[tuple[str, Mapping[str, Endpoint]], ...]] = (
    ("/healthz", _HEALTH),
    ("/readyz", _READINESS),
    ("/metrics", _METRICS),
    ("/admin/accounts", {"GET": _list_accounts, "POST": _create_account}),
    ("/admin/accounts/{id}", {"GET": _read_account}),
    ("/admin/accounts/{id}/credits", {"POST": _credit}),
    ("/admin/accounts/{id}/transactions", {"GET": _transactions}),
    ("/admin/keys", {"GET": _list_keys, "POST": _create_key}),
    ("/admin/keys/{id}", {"DELETE": _revoke_key}),
    ("/admin/usage/{id}", {"GET": _usage}),
)
"""Every path outside of the data plane, and what answers it by method."""

_PATHS: Final = Paths(ENDPOINTS)
