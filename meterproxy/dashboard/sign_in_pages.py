"""Signing in and out by pages; a browser keeps its log-in as a cookie that scripts cannot read."""

import time
from typing import Annotated, Final
from uuid import UUID

from aiohttp import web
from pydantic import ConfigDict, Field

from meterproxy.control import auth_endpoints, forms, organization_endpoints
from meterproxy.control.access import Permission, is_operator
from meterproxy.control.auth_endpoints import ChangedPassword, Credentials, Forgotten, NewPasswordByReset, NewUser
from meterproxy.control.call import Call, Services
from meterproxy.control.identity import COOKIE
from meterproxy.control.principal import User
from meterproxy.control.queries import Query
from meterproxy.control.route import Route
from meterproxy.control.sign_in import LOGIN_SECONDS, SignedIn
from meterproxy.control.single_sign_on import LONGEST, SECONDS, SingleSignOn
from meterproxy.control.tokens import PAGES
from meterproxy.dashboard.pages import own_path, page, page_route, redirect
from meterproxy.errors import ApiError, Case

Path = Annotated[str, Field(max_length=2000)]
BACK: Final = "/login/openid/back"
BEGUN: Final = "meterproxy_openid"
"""The cookie of who is signing in at the OpenID provider."""


class SignInQuery(Query):
    """Where to go on, and what has just been done."""

    next: Path = "/"
    done: Path = ""


class CameBack(Query):
    """What an OpenID provider sends back; it may say more than we read."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    code: Annotated[str, Field(max_length=LONGEST)] = ""
    state: Annotated[str, Field(max_length=LONGEST)] = ""
    error: Annotated[str, Field(max_length=LONGEST)] = ""


class InvitedQuery(Query):
    """The secret of an invitation or a reset, as its link has it."""

    token: Annotated[str, Field(max_length=200)] = ""
    done: Path = ""


class Chosen(Query):
    """The organization that is worked in from now on."""

    organization_id: UUID


async def _login(on: Services, call: Call, error: ApiError | None = None) -> web.Response:
    if isinstance(call.acting.principal, User) and error is None:
        return redirect(call.query_as(SignInQuery).next)
    return await _door(on, call, own_path(call.query_as(SignInQuery).next), error)


async def _door(on: Services, call: Call, next_: str, error: ApiError | None) -> web.Response:
    elsewhere = None if on.single_sign_on is None else on.single_sign_on.name
    return await page(
        on,
        call,
        "login.html",
        error=error,
        next=next_,
        elsewhere=elsewhere,
        registration=on.sign_in.registration,
        mails=on.mailer is not None,
    )


async def _signed_in(on: Services, call: Call) -> web.Response:
    try:
        given = forms.read(Credentials, call.form)
        signed = await on.sign_in.log_in(given.email, given.password, call.address)
    except ApiError as error:
        return await _login(on, call, error)
    return _let_in(on, call, signed, call.query_as(SignInQuery).next)


def _let_in(on: Services, call: Call, signed: SignedIn, next_: str) -> web.Response:
    """On to where somebody wanted to go, with his log-in in a cookie."""
    response = redirect(own_path(next_))
    token = on.tokens.make(signed.claim, int(time.time()), PAGES, LOGIN_SECONDS)
    _keep(response, call, COOKIE, token, LOGIN_SECONDS, "/")
    return response


def _keep(response: web.Response, call: Call, name: str, value: str, seconds: int, path: str) -> None:
    """Have the browser keep what scripts cannot read and other sites' forms do not send."""
    secure = call.own_url.startswith("https:")
    response.set_cookie(name, value, max_age=seconds, path=path, httponly=True, samesite="Lax", secure=secure)


def _elsewhere(on: Services) -> SingleSignOn:
    if on.single_sign_on is None:
        raise ApiError(Case.NOT_FOUND, "People do not sign in elsewhere for this service.")
    return on.single_sign_on


async def _sent_away(on: Services, call: Call) -> web.Response:
    """To the OpenID provider, to sign in there."""
    elsewhere = _elsewhere(on)
    try:
        begun = await elsewhere.begin(f"{call.own_url}{BACK}", own_path(call.query_as(SignInQuery).next))
    except ApiError as error:
        return await _login(on, call, error)
    response = web.Response(status=303, headers={"Location": begun.url, "Cache-Control": "no-store"})
    _keep(response, call, BEGUN, begun.kept, SECONDS, BACK)
    return response


async def _came_back(on: Services, call: Call) -> web.Response:
    """From the OpenID provider, with a code or with what went wrong."""
    query, elsewhere = call.query_as(CameBack), _elsewhere(on)
    try:
        code = "" if query.error else query.code
        async with on.sign_in.attempt_from(call.address):
            ended = await elsewhere.end(call.request.cookies.get(BEGUN, ""), query.state, code)
        signed = await on.sign_in.log_in_known(ended.person.id)
    except ApiError as error:
        response = await _door(on, call, "/", error)
    else:
        response = _let_in(on, call, signed, ended.next)
    response.del_cookie(BEGUN, path=BACK, httponly=True, samesite="Lax")
    return response


async def _signed_out(on: Services, call: Call) -> web.Response:
    await auth_endpoints.logged_out(on, call)
    response = redirect("/login")
    response.del_cookie(COOKIE, path="/", httponly=True, samesite="Lax")
    return response


async def _register(on: Services, call: Call, error: ApiError | None = None) -> web.Response:
    token = call.query_as(InvitedQuery).token
    return await page(on, call, "register.html", error=error, token=token, registration=on.sign_in.registration)


async def _registered(on: Services, call: Call) -> web.Response:
    try:
        await auth_endpoints.registered(on, call.asking(body=forms.read(NewUser, call.form)))
    except ApiError as error:
        return await _register(on, call, error)
    return redirect("/login", done="registered")


async def _forgot(on: Services, call: Call, error: ApiError | None = None) -> web.Response:
    auth_endpoints.mailed(on)
    return await page(on, call, "forgot.html", error=error)


async def _forgotten(on: Services, call: Call) -> web.Response:
    try:
        await auth_endpoints.forgotten(on, call.asking(body=forms.read(Forgotten, call.form)))
    except ApiError as error:
        return await _forgot(on, call, error)
    return redirect("/login", done="forgotten")


async def _reset(on: Services, call: Call, error: ApiError | None = None) -> web.Response:
    return await page(on, call, "reset.html", error=error, token=call.query_as(InvitedQuery).token)


async def _was_reset(on: Services, call: Call) -> web.Response:
    try:
        await auth_endpoints.password_reset(on, call.asking(body=forms.read(NewPasswordByReset, call.form)))
    except ApiError as error:
        return await _reset(on, call, error)
    return redirect("/login", done="reset")


async def _profile(on: Services, call: Call, error: ApiError | None = None) -> web.Response:
    return await page(on, call, "profile.html", error=error)


async def _password(on: Services, call: Call) -> web.Response:
    try:
        await auth_endpoints.password_changed(on, call.asking(body=forms.read(ChangedPassword, call.form)))
    except ApiError as error:
        return await _profile(on, call, error)
    return redirect("/profile", done="password")


async def _chosen(on: Services, call: Call) -> web.Response:
    user = call.acting.principal
    assert isinstance(user, User)
    organization_id = forms.read(Chosen, call.form).organization_id
    if organization_id not in user.memberships and not is_operator(user):
        raise ApiError(Case.NOT_FOUND, "There is no such organization.")
    if user.login_id is not None:
        await on.people.set_organization(user.login_id, organization_id)
    return redirect("/")


async def _invitation(on: Services, call: Call, error: ApiError | None = None) -> web.Response:
    return await page(on, call, "invitation.html", error=error, token=call.query_as(InvitedQuery).token)


async def _joined(on: Services, call: Call) -> web.Response:
    try:
        body = forms.read(organization_endpoints.Acceptance, call.form)
        joined = await organization_endpoints.accepted(on, call.asking(body=body))
    except ApiError as error:
        return await _invitation(on, call, error)
    user = call.acting.principal
    assert isinstance(user, User)
    if user.login_id is not None:
        await on.people.set_organization(user.login_id, joined.organization_id)
    return redirect("/", done="joined")


ROUTES: Final[tuple[Route, ...]] = (
    page_route("GET", "/login", Permission.OPEN, _login, SignInQuery),
    page_route("POST", "/login", Permission.OPEN, _signed_in, SignInQuery),
    page_route("GET", "/login/openid", Permission.OPEN, _sent_away, SignInQuery),
    page_route("GET", BACK, Permission.OPEN, _came_back, CameBack),
    page_route("POST", "/logout", Permission.SIGNED_IN, _signed_out, InvitedQuery),
    page_route("GET", "/register", Permission.OPEN, _register, InvitedQuery),
    page_route("POST", "/register", Permission.OPEN, _registered, InvitedQuery),
    page_route("GET", "/forgot", Permission.OPEN, _forgot),
    page_route("POST", "/forgot", Permission.OPEN, _forgotten),
    page_route("GET", "/reset", Permission.OPEN, _reset, InvitedQuery),
    page_route("POST", "/reset", Permission.OPEN, _was_reset, InvitedQuery),
    page_route("GET", "/profile", Permission.SIGNED_IN, _profile, InvitedQuery),
    page_route("POST", "/profile/password", Permission.SIGNED_IN, _password, InvitedQuery),
    page_route("POST", "/profile/organization", Permission.SIGNED_IN, _chosen, InvitedQuery),
    page_route("GET", "/invitation", Permission.SIGNED_IN, _invitation, InvitedQuery),
    page_route("POST", "/invitation", Permission.SIGNED_IN, _joined, InvitedQuery),
)
