"""Pages: templates rendered with what all of them show, and errors as people see them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from http import HTTPStatus
from typing import Annotated, Any, Final
from urllib.parse import quote, urlencode
from uuid import UUID

import jinja2
from aiohttp import web
from pydantic import Field

from meterproxy.control.access import OF_KEYS, ROLES, Acting, Permission, is_operator, wanted_organization
from meterproxy.control.call import Call, Services
from meterproxy.control.limit_answers import COUNTED
from meterproxy.control.notification_endpoints import reader_of
from meterproxy.control.principal import User
from meterproxy.control.queries import Query
from meterproxy.control.route import Endpoint, Route
from meterproxy.core.direction import in_its_direction
from meterproxy.core.entry import CREDIT_KINDS, ENTRY_KINDS, EntryKind
from meterproxy.core.money import format_usd
from meterproxy.dashboard.static import address_of
from meterproxy.errors import ApiError, Case, StoreUnavailable

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
"""What a page may load and do: what is ours, and nothing inline."""

HEADERS: Final = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}

NOWHERE: Final = UUID(int=0)
"""The id of no organization."""

DONE: Final[Mapping[str, str]] = {
    "key-changed": "The key was changed.",
    "key-revoked": "The key was revoked. Within a second no worker takes it any more.",
    "budget-made": "The budget was made.",
    "budget-changed": "The budget was changed.",
    "budget-retired": "The budget was retired.",
    "password": "Your password was changed. All your other log-ins have ended.",
    "forgotten": "If somebody signs in by this address and a password, a link to set a new one is on its way to it.",
    "reset": "Your password was set, and all log-ins have ended; keys go on. Sign in with it.",
    "role": "The role was changed.",
    "removed": "The membership was ended, and the keys that went with it.",
    "withdrawn": "The invitation was withdrawn.",
    "joined": "You belong to this organization now.",
    "team": "The team was made.",
    "team-renamed": "The team was renamed.",
    "team-removed": "The team was removed with its budgets. Its keys go on without them.",
    "organization-renamed": "The organization was renamed.",
    "ordered": "The credit was ordered. How to pay is said below.",
    "cancelled": "The order was taken back.",
    "confirmed": "The purchase was confirmed, and what arrived was booked.",
    "declined": "The purchase was declined.",
    "mark": "The mark was moved.",
    "read": "All notifications were read.",
    "credited": "The entry was booked.",
    "account": "The account was changed.",
    "suspended": "The user was suspended, with all keys.",
    "resumed": "The user may sign in again.",
    "provider": "The provider was added. It serves once it has a key.",
    "provider-changed": "The provider was changed. That is in force within a second.",
    "provider-removed": "The provider was removed with its keys.",
    "provider-key": "The provider takes the key. It is in use within a second.",
    "provider-key-untested": "The key was kept without asking the provider. It is in use within a second.",
    "provider-key-removed": "The key was forgotten.",
    "registered": "You are registered. Sign in.",
}
"""What a page says after something was done."""


LABELS: Final[Mapping[str, str]] = {
    "base_url": "Address",
    "email": "E-mail",
    "enforcement": "When it is used up",
    "expires_at": "Expires on",
    "from": "From",
    "highest_request": "Dearest request",
    "idempotency_key": "This form",
    "marks": "Tell at",
    "model": "Models",
    "prices": "Prices of",
    "runs_out_days": "Warn ahead",
    "scope_id": "For",
    "to": "To",
    "username": "Name",
    "window": "By",
}
"""What fields are called on pages that the API calls otherwise."""


class _Filled(dict[str, str]):
    """What was filled in before; nothing in all other fields."""

    def __missing__(self, name: str) -> str:
        return ""


class PageQuery(Query):
    """What has just been done, for a page that says so."""

    done: Annotated[str, Field(max_length=100)] = ""


def page_route(
    method: str, path: str, permission: Permission, endpoint: Endpoint, query: type[Query] = PageQuery
) -> Route:
    """A page, or what is sent to one."""
    return Route(
        method=method, path=path, permission=permission, endpoint=endpoint, summary=path, query=query, is_page=True
    )


def may(call: Call, permission: Permission) -> bool:
    """Whether who looks at a page may do something in the organization that it is about."""
    acting = call.acting
    if acting.role is not None:
        return acting.role in ROLES.get(permission, frozenset())
    return is_operator(acting.principal) or permission in OF_KEYS


async def page(
    on: Services, call: Call, template: str, *, error: ApiError | None = None, **content: Any
) -> web.Response:
    """A page; with an error where what was sent could not be done, then with what was filled in."""
    call = _placed(call)
    acting = call.acting
    account = None if acting.account_id is None else await on.accounts.read(acting.account_id)
    principal = acting.principal
    user = principal if isinstance(principal, User) else None
    return html(
        template,
        status=200 if error is None else error.status,
        error=None if error is None else _in_words(error),
        form=_Filled(call.form),
        account=account,
        user=user,
        csrf=None if user is None else user.csrf,
        organizations=await _organizations(on, user),
        operates=is_operator(principal),
        unread=0 if user is None or account is None else await on.notifications.unread(reader_of(call)),
        waiting=await on.purchases.pending() if is_operator(principal) else 0,
        may=lambda name: may(call, Permission[name]),
        path=call.request.path,
        done=DONE.get(call.request.query.get("done", "")),
        **content,
    )


def _in_words(error: ApiError) -> ApiError:
    """An error that names what is at fault as people see it, and not as the API calls it."""
    name, colon, text = error.message.partition(": ")
    if not colon or name != error.param:
        return error
    member = name.partition(".")[0]
    label = LABELS.get(member) or member.replace("_", " ").capitalize()
    return ApiError(error.case, f"{label}: {text}", param=error.param, headers=error.headers)


def _placed(call: Call) -> Call:
    """The call in its user's organization, where its page is about none: what leads to other pages stays there."""
    user = call.acting.principal
    if not isinstance(user, User) or call.acting.account_id is not None:
        return call
    place = user.memberships.get(wanted_organization(user, None) or NOWHERE)
    if place is None:
        return call
    role = None if user.is_operator else place.role
    return replace(call, acting=Acting(user, place.organization_id, place.account_id, role))


def html(template: str, *, status: int = 200, **content: Any) -> web.Response:
    """A template, rendered."""
    blank: dict[str, Any] = {
        "error": None, "form": _Filled(), "account": None, "user": None, "csrf": None, "organizations": (),
        "operates": False, "waiting": 0, "unread": 0,
        "may": lambda _name: False, "path": "", "done": None,
    }  # fmt: skip
    text = _environment().get_template(template).render(**{**blank, **content})
    return web.Response(status=status, text=text, headers=HEADERS)


async def told(on: Services, call: Call, error: ApiError) -> web.Response:
    """An error as a page like all others; who is not signed in is sent to do so, and back."""
    request = call.request
    if error.case is Case.NOT_SIGNED_IN:
        back = f"?next={quote(request.path_qs, safe='')}" if request.method == "GET" and request.path != "/" else ""
        return redirect(f"/login{back}")
    phrase = HTTPStatus(error.status).phrase
    try:
        response = await page(on, call, "error.html", error=error, phrase=phrase)
    except (ApiError, StoreUnavailable):  # without what would have to be looked up
        response = html("error.html", status=error.status, error=_in_words(error), phrase=phrase)
    response.headers.update(error.headers)
    return response


def redirect(address: str, **query: str) -> web.Response:
    """Go on at another page of ours."""
    target = own_path(address) + (f"?{urlencode(query)}" if query else "")
    return web.Response(status=303, headers={"Location": target, "Cache-Control": "no-store"})


def own_path(address: str) -> str:
    """An address if it is a path of this service, else the first page: nobody is sent elsewhere from here."""
    inside = address.startswith("/") and not address.startswith("//") and address.isprintable()
    return address if inside and "\\" not in address else "/"


async def _organizations(on: Services, user: User | None) -> Any:
    return () if user is None else await on.members.organizations(user.id, None, 50)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("meterproxy.dashboard"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, finalize=_written,
    )  # fmt: skip
    environment.filters.update(
        usd=format_usd, dollars=_dollars, about=about, grouped=_grouped, instant=_instant, iso=_iso
    )
    environment.globals.update(
        static=address_of, activity_of=activity_of,
        today=lambda: _now().date(), now=_now,
        entry_kinds=ENTRY_KINDS, credit_kinds=CREDIT_KINDS, kinds_in_address=kinds_in_address, counted=COUNTED,
    )  # fmt: skip
    return environment


def _written(value: Any) -> Any:
    """What is written into a page, without the characters by which a name turns round the text beside it.

    They are left out of attributes, questions and titles too, where no `<bdi>` can stand; that isolates what is written
    from right to left by itself.
    """
    return in_its_direction(value) if isinstance(value, str) else value


def _now() -> datetime:
    return datetime.now(UTC)


def about(nanos: int) -> str:
    """An amount that is estimated: its first three digits, or to the cent where that is more."""
    return format_usd(round(nanos, min(0, max(-7, 3 - len(str(nanos))))))


def _dollars(text: str) -> str:
    """A decimal amount as people read it ("$10,000.00", "−$5.00")."""
    whole, point, part = text.removeprefix("-").partition(".")
    return f"{'−' if text.startswith('-') else ''}${int(whole):,}{point}{part}"


def _grouped(number: float) -> str:
    return f"{number:,}"


def _instant(at: datetime) -> str:
    """As it is read without JavaScript, which shows it in the viewer's zone."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def kinds_in_address(kinds: Sequence[EntryKind] | None) -> str:
    """What kinds of ledger entries are looked for, as it stands in an address before more of it."""
    return "".join(f"kind={kind}&" for kind in kinds or ())


def activity_of(**query: Any) -> str:
    """The address of the rows behind a number."""
    told_ = {name.rstrip("_"): str(value) for name, value in query.items() if value is not None}
    return f"/activity?{urlencode(told_)}" if told_ else "/activity"
