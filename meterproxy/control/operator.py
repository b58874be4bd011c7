"""The operator's endpoints: what may be done with the admin token, each a row of a table.

Rules
-----
- The token is compared in constant time; without it nothing about a path is told but 401.
- A store that is away is a 503, a foreign or unknown id a 404, a fault in a body or query a 400 that names it.
"""

import hmac
from collections.abc import Mapping
from typing import Final

from aiohttp import web

from meterproxy.control import account_endpoints, fleet_endpoints, key_endpoints, limit_endpoints
from meterproxy.control.answers import json_answer
from meterproxy.control.call import Call, Endpoint, Services
from meterproxy.errors import ApiError, Case, StoreUnavailable
from meterproxy.proxy.paths import Match, Paths


class OperatorApi:
    """Answers everything outside of the data plane."""

    def __init__(self, services: Services, admin_token: str, *, open_metrics: bool) -> None:
        self._services = services
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
            return await endpoint(self._services, Call(match.ids, request.query, await request.read()))
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


async def _healthz(_on: Services, _call: Call) -> web.Response:
    return json_answer({"status": "ok"})


async def _readyz(on: Services, _call: Call) -> web.Response:
    reason = on.machine.unready()
    return (
        json_answer({"status": "ready"})
        if reason is None
        else json_answer({"status": "unready", "reason": reason}, 503)
    )


async def _metrics(on: Services, _call: Call) -> web.Response:
    body, content_type = await on.machine.metrics()
    return web.Response(body=body, headers={"Content-Type": content_type})


async def _usage(on: Services, call: Call) -> web.Response:
    return json_answer(await on.machine.explain(call.id()))


_HEALTH: Final[Mapping[str, Endpoint]] = {"GET": _healthz}
_READINESS: Final[Mapping[str, Endpoint]] = {"GET": _readyz}
_METRICS: Final[Mapping[str, Endpoint]] = {"GET": _metrics}
_ALWAYS_OPEN: Final = (_HEALTH, _READINESS)

ENDPOINTS: Final[tuple[tuple[str, Mapping[str, Endpoint]], ...]] = (
    ("/healthz", _HEALTH),
    ("/readyz", _READINESS),
    ("/metrics", _METRICS),
    *account_endpoints.ENDPOINTS,
    *key_endpoints.ENDPOINTS,
    *limit_endpoints.ENDPOINTS,
    *fleet_endpoints.ENDPOINTS,
    ("/admin/usage/{id}", {"GET": _usage}),
)
"""Every path outside of the data plane, and what answers it by method."""

_PATHS: Final = Paths(ENDPOINTS)
