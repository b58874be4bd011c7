"""The API outside of the data plane: finds the route, knows who asks, lets or refuses, has it answered.

Rules
-----
- What needs the admin token itself is refused by the head alone, before a body is read, and without it nothing about a
  path below `/admin/` is told but 401.
- Everything else is decided by `access.decide`, here, before the endpoint is called.
- Whoever comes by a browser's cookie changes nothing without the token that only our pages know (`X-CSRF-Token`, or the
  field of a form), nor from another site's page.
- A store that is away is a 503, a foreign or unknown id a 404, a fault in a body or query a 400 that names it.
"""

import contextlib
import hmac
from collections.abc import Awaitable, Callable, Iterable
from typing import Final
from uuid import UUID

from aiohttp import web
from multidict import MultiDict
from pydantic import BaseModel

from meterproxy.control import access, bodies, forms, queries
from meterproxy.control.access import Acting, Permission
from meterproxy.control.answers import json_answer
from meterproxy.control.call import Call, Services
from meterproxy.control.identity import Identity
from meterproxy.control.principal import ANONYMOUS, OPERATOR, Key, Membership, Principal, User, actor
from meterproxy.control.route import Methods, Route, Table
from meterproxy.core.role import Role
from meterproxy.errors import ApiError, Case, StoreUnavailable
from meterproxy.proxy.origin import Networks, is_within, neighbourhood, origin
from meterproxy.proxy.paths import Match
from meterproxy.store.actor import acting_as

ORGANIZATION: Final = "organization_id"
"""In any query: the organization that is meant, where its principal works in several."""
METRICS: Final = "/metrics"
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})


PageError = Callable[[Services, Call, ApiError], Awaitable[web.StreamResponse]]
"""How a page tells an error to who looks at it."""


async def _nowhere(_on: Services, _call: Call) -> None:
    raise ApiError(Case.PATH_UNKNOWN, "There is no such page.")


_NO_PAGE: Final = Route(
    method="GET",
    path="/",
    permission=Permission.OPEN,
    endpoint=_nowhere,
    summary="",
    query=queries.AnyQuery,
    is_page=True,
)
"""What a browser finds where nothing is."""
_NO_PAGES_BELOW: Final = ("/v1/", "/api/", "/admin/")


class Api:
    """Answers everything outside of the data plane."""

    def __init__(
        self,
        services: Services,
        identity: Identity,
        routes: Iterable[Route],
        *,
        open_metrics: bool,
        trusted_proxies: Networks = (),
        public_url: str | None = None,
        on_page_error: PageError | None = None,
    ) -> None:
        self._on_page_error = on_page_error
        self._trusted = trusted_proxies
        self._public_url = public_url
        self._services = services
        self._identity = identity
        self._open_metrics = open_metrics
        self.table: Final = Table(routes)

    def admit(self, request: web.BaseRequest) -> tuple[Route, Match[Methods]]:
        """Judge a request by its head, before its body is read; raises ApiError."""
        path = request.raw_path.partition("?")[0]
        match = self.table.match(path)
        if match is None:
            if path.startswith("/admin/"):
                self._identity.check_admin_token(request)
            if self._on_page_error is not None and _looks_for_page(request):
                return _NO_PAGE, Match({}, ())
            raise ApiError(Case.PATH_UNKNOWN, f"Unknown request URL: {request.method} {request.path[:200]}.")
        if self._wants_token(match.route):
            self._identity.check_admin_token(request)
        route = match.route.get("GET" if request.method == "HEAD" else request.method)
        if route is None:
            allowed = ", ".join(sorted({*match.route, "HEAD"} if "GET" in match.route else match.route))
            raise ApiError(Case.METHOD_NOT_ALLOWED, f"This path takes {allowed}.", headers={"Allow": allowed})
        return route, match

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; raises ApiError, but for pages, whose errors are pages."""
        route, match = self.admit(request)
        try:
            return await self._answer(request, route, match.ids)
        except ApiError as error:
            if not route.is_page or self._on_page_error is None:
                raise
            return await self._on_page_error(self._services, await self._looking(request, error), error)

    async def _looking(self, request: web.BaseRequest, error: ApiError) -> Call:
        """Who looks at a page that tells an error, as far as that can be known without waiting for it twice."""
        principal: Principal = ANONYMOUS
        if not isinstance(error.__cause__, StoreUnavailable):
            with contextlib.suppress(ApiError, StoreUnavailable):
                principal = await self._identity.of(request)
        return Call((), queries.NoQuery(), None, Acting(principal), request)

    async def _answer(self, request: web.BaseRequest, route: Route, ids: tuple[str, ...]) -> web.StreamResponse:
        try:
            call = await self._call(request, route, ids)
            with acting_as(actor(call.acting.principal)):
                return _rendered(route, await route.endpoint(self._services, call))
        except StoreUnavailable as error:
            raise ApiError(Case.UNAVAILABLE, "The database is not available right now.") from error

    async def _call(self, request: web.BaseRequest, route: Route, ids: tuple[str, ...]) -> Call:
        query = MultiDict(request.query)
        form = forms.fields(await request.read()) if route.is_page and request.method == "POST" else None
        address = origin(request.remote or "", request.headers, self._trusted)
        acting = await self._acting(request, route, query, ids)
        if isinstance(acting.principal, Key) and not is_within(address, acting.principal.networks):
            raise ApiError(Case.PERMISSION_DENIED, "This API key may not be used from this address.")
        _check_site(request, acting.principal, form, self._public_url)
        body = None
        if route.body is not None:
            body = bodies.read(route.body, await request.read())
        return Call(
            ids,
            queries.read(route.query, query),
            body,
            acting,
            request,
            neighbourhood(address),
            self._public_url or _own_url(request),
            form or {},
        )

    async def _acting(
        self, request: web.BaseRequest, route: Route, query: MultiDict[str], ids: tuple[str, ...]
    ) -> Acting:
        """Who asks, let through; takes the name of the organization out of the path or the query."""
        if route.is_file or (route.permission is Permission.OPEN and not route.is_page):
            return Acting(ANONYMOUS)
        if route.permission is Permission.ADMIN_TOKEN:
            return Acting(OPERATOR)  # `admit` has seen the token
        principal = await self._identity.of(request)
        place = None
        if access.is_of_organization(route.permission):
            named = _in_path(ids[0]) if route.names_organization else _named(query)
            place = await self._place(principal, access.wanted_organization(principal, named))
        return access.decide(principal, route.permission, place)

    async def _place(self, principal: Principal, organization_id: UUID | None) -> Membership | None:
        if organization_id is None:
            if access.is_operator(principal):
                raise ApiError(Case.MALFORMED, f"{ORGANIZATION}: name the organization.", param=ORGANIZATION)
            return None
        if isinstance(principal, User) and organization_id in principal.memberships:
            return principal.memberships[organization_id]
        account_id = await self._services.accounts.of_organization(organization_id)
        return None if account_id is None else Membership(organization_id, account_id, Role.VIEWER)

    def _wants_token(self, methods: Methods) -> bool:
        route = next(iter(methods.values()))
        return route.permission is Permission.ADMIN_TOKEN and not (self._open_metrics and route.path == METRICS)


def _looks_for_page(request: web.BaseRequest) -> bool:
    """Whether somebody has opened an address in a browser that no program asks."""
    by_browser = request.method in {"GET", "HEAD"} and "text/html" in request.headers.get("Accept", "")
    return by_browser and not request.path.startswith(_NO_PAGES_BELOW)


def _check_site(
    request: web.BaseRequest, principal: Principal, form: dict[str, str] | None, public_url: str | None
) -> None:
    """Refuse what another site has a browser do; what ends TLS for us may name another host to us than people see.

    Raises:
        ApiError: PERMISSION_DENIED.
    """
    if request.method in _SAFE:
        return
    by_cookie = isinstance(principal, User) and principal.csrf is not None
    if not by_cookie and form is None:
        return
    origin_of_page = request.headers.get("Origin")
    elsewhere = request.headers.get("Sec-Fetch-Site", "same-origin") not in {"same-origin", "none"} or (
        origin_of_page not in {None, public_url}
        and str(origin_of_page).partition("://")[2] != request.headers.get("Host")
    )
    told = (form or {}).get(forms.CSRF) or request.headers.get("X-CSRF-Token") or ""
    known = (principal.csrf if isinstance(principal, User) else None) or ""
    if elsewhere or (by_cookie and not hmac.compare_digest(told.encode("utf-8", "replace"), known.encode())):
        raise ApiError(Case.PERMISSION_DENIED, "This did not come from one of our pages. Load the page again.")


def _own_url(request: web.BaseRequest) -> str:
    """Where people reach this service, as far as a request tells."""
    scheme = "https" if request.headers.get("X-Forwarded-Proto", "") == "https" else "http"
    return f"{scheme}://{request.headers.get('Host', 'localhost')}"


def _named(query: MultiDict[str]) -> UUID | None:
    text = query.popone(ORGANIZATION, None)
    try:
        return UUID(text) if text else None
    except ValueError as error:
        raise ApiError(Case.MALFORMED, f"{ORGANIZATION} is not an id.", param=ORGANIZATION) from error


def _in_path(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise ApiError(Case.NOT_FOUND, "There is no such organization.") from error


def _rendered(route: Route, answer: BaseModel | web.StreamResponse | None) -> web.StreamResponse:
    if isinstance(answer, web.StreamResponse):
        return answer
    return web.Response(status=204) if answer is None else json_answer(answer, route.status)
