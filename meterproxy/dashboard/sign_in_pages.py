"""Signing in and out by pages; a browser keeps its log-in as a cookie that scripts cannot read."""

import time
from typing import Annotated, Final
from uuid import UUID

from aiohttp import web
from pydantic import Field

from meterproxy.control import auth_endpoints, forms, organization_endpoints
from meterproxy.control.access import Permission, is_operator
from meterproxy.control.auth_endpoints import ChangedPassword, Credentials, NewPasswordByReset, NewUser
from meterproxy.control.call import Call, Services
from meterproxy.control.identity import COOKIE
from meterproxy.control.principal import User
from meterproxy.control.queries import Query
from meterproxy.control.route import Route
from meterproxy.control.sign_in import LOGIN_SECONDS
from meterproxy.control.tokens import PAGES
from meterproxy.dashboard.pages import own_path, page, page_route, redirect
from meterproxy.errors import ApiError, Case

Path = Annotated[str, Field(max_length=2000)]


class SignInQuery(Query):
    """Where to go on, and what has just been done."""

    next: Path = "/"
    done: Path = ""


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
    return await page(on, call, "login.html", error=error, next=own_path(call.query_as(SignInQuery).next))


async def _signed_in(on: Services, call: Call) -> web.Response:
    try:
        given = forms.read(Credentials, call.form)
        signed = await on.sign_in.log_in(given.email, given.password, call.address)
    except ApiError as error:
        return await _login(on, call, error)
    response = redirect(own_path(call.query_as(SignInQuery).next))
    token = on.tokens.make(signed.claim, int(time.time()), PAGES, LOGIN_SECONDS)
    secure = call.own_url.startswith("https:")
    response.set_cookie(COOKIE, token, max_age=LOGIN_SECONDS, path="/", httponly=True, samesite="Lax", secure=secure)
    return response


async def _signed_out(on: Services, call: Call) -> web.Response:
    await auth_endpoints.logged_out(on, call)
    response = redirect("/login")
    response.del_cookie(COOKIE, path="/", httponly=True, samesite="Lax")
    return response


async def _register(on: Services, call: Call, error: ApiError | None = None) -> web.Response:
    return await page(on, call, "register.html", error=error, token=call.query_as(InvitedQuery).token)


async def _registered(on: Services, call: Call) -> web.Response:
    try:
        await auth_endpoints.registered(on, call.asking(body=forms.read(NewUser, call.form)))
    except ApiError as error:
        return await _register(on, call, error)
    return redirect("/login", done="registered")


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
    page_route("POST", "/logout", Permission.SIGNED_IN, _signed_out, InvitedQuery),
    page_route("GET", "/register", Permission.OPEN, _register, InvitedQuery),
    page_route("POST", "/register", Permission.OPEN, _registered, InvitedQuery),
    page_route("GET", "/reset", Permission.OPEN, _reset, InvitedQuery),
    page_route("POST", "/reset", Permission.OPEN, _was_reset, InvitedQuery),
    page_route("GET", "/profile", Permission.SIGNED_IN, _profile, InvitedQuery),
    page_route("POST", "/profile/password", Permission.SIGNED_IN, _password, InvitedQuery),
    page_route("POST", "/profile/organization", Permission.SIGNED_IN, _chosen, InvitedQuery),
    page_route("GET", "/invitation", Permission.SIGNED_IN, _invitation, InvitedQuery),
    page_route("POST", "/invitation", Permission.SIGNED_IN, _joined, InvitedQuery),
)
