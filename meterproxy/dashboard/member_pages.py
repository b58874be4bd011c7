"""Members and teams: who belongs to an organization, in which role, and what each has used."""

from typing import Final

from aiohttp import web

from meterproxy.control import forms, organization_endpoints, queries
from meterproxy.control.access import Permission
from meterproxy.control.bodies import Renamed
from meterproxy.control.call import Call, Services
from meterproxy.control.organization_endpoints import ChangedMember, NewInvitation, NewlyMadeInvitation, NewTeam
from meterproxy.control.route import Route
from meterproxy.control.spans import days_of
from meterproxy.core.role import Role
from meterproxy.dashboard.pages import page, page_route, redirect
from meterproxy.errors import ApiError


async def _members(
    on: Services, call: Call, error: ApiError | None = None, invitation: NewlyMadeInvitation | None = None
) -> web.Response:
    everybody = call.asking(query=queries.Page(limit=queries.MOST_ROWS))
    totals = await on.usage.totals(call.whose(), *days_of(None, None))
    return await page(
        on,
        call,
        "members.html",
        error=error,
        members=(await organization_endpoints.members(on, everybody)).data,
        invitations=(await organization_endpoints.invitations(on, everybody)).data,
        teams=(await organization_endpoints.teams(on, everybody)).data,
        used={group.value: group.counts for group in totals.by.get("user", ())},
        roles=[role.value for role in Role],
        invitation=invitation,
        registration=on.sign_in.registration,
        base_url=call.own_url,
    )


async def _invited(on: Services, call: Call) -> web.Response:
    try:
        made = await organization_endpoints.invited(on, call.asking(body=forms.read(NewInvitation, call.form)))
    except ApiError as error:
        return await _members(on, call, error)
    return await _members(on, call, invitation=made)


async def _changed(on: Services, call: Call) -> web.Response:
    try:
        body = forms.read(ChangedMember, call.form)
        await organization_endpoints.changed(on, call.asking(body=body, ids=("", call.ids[0])))
    except ApiError as error:
        return await _members(on, call, error)
    return redirect("/members", done="role")


async def _removed(on: Services, call: Call) -> web.Response:
    try:
        await organization_endpoints.removed(on, call.asking(ids=("", call.ids[0])))
    except ApiError as error:
        return await _members(on, call, error)
    return redirect("/members", done="removed")


async def _withdrawn(on: Services, call: Call) -> web.Response:
    await organization_endpoints.withdrawn(on, call.asking(ids=("", call.ids[0])))
    return redirect("/members", done="withdrawn")


async def _team_made(on: Services, call: Call) -> web.Response:
    try:
        await organization_endpoints.team_made(on, call.asking(body=forms.read(NewTeam, call.form)))
    except ApiError as error:
        return await _members(on, call, error)
    return redirect("/members", done="team")


async def _team_renamed(on: Services, call: Call) -> web.Response:
    try:
        body = forms.read(Renamed, call.form)
        await organization_endpoints.team_renamed(on, call.asking(body=body, ids=("", call.ids[0])))
    except ApiError as error:
        return await _members(on, call, error)
    return redirect("/members", done="team-renamed")


async def _team_removed(on: Services, call: Call) -> web.Response:
    try:
        await organization_endpoints.team_removed(on, call.asking(ids=("", call.ids[0])))
    except ApiError as error:
        return await _members(on, call, error)
    return redirect("/members", done="team-removed")


async def _organization_renamed(on: Services, call: Call) -> web.Response:
    try:
        await organization_endpoints.renamed(on, call.asking(body=forms.read(Renamed, call.form)))
    except ApiError as error:
        return await _members(on, call, error)
    return redirect("/members", done="organization-renamed")


ROUTES: Final[tuple[Route, ...]] = (
    page_route("GET", "/members", Permission.READ_ORGANIZATION, _members),
    page_route("POST", "/members/invite", Permission.MANAGE, _invited),
    page_route("POST", "/members/organization", Permission.MANAGE, _organization_renamed),
    page_route("POST", "/members/teams", Permission.MANAGE, _team_made),
    page_route("POST", "/members/teams/{id}/rename", Permission.MANAGE, _team_renamed),
    page_route("POST", "/members/teams/{id}/remove", Permission.MANAGE, _team_removed),
    page_route("POST", "/members/{id}/role", Permission.MANAGE, _changed),
    page_route("POST", "/members/{id}/remove", Permission.MANAGE, _removed),
    page_route("POST", "/members/invitations/{id}/withdraw", Permission.MANAGE, _withdrawn),
)
