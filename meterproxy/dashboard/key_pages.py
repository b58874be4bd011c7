"""API keys: made (the secret is shown once, with snippets that work), seen, changed, rotated, revoked."""

import asyncio
from collections.abc import Sequence
from datetime import UTC
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import Final

from aiohttp import web

from meterproxy.control import bodies, forms, own_key_endpoints, queries
from meterproxy.control.access import Permission
from meterproxy.control.answers import NewlyMadeKey
from meterproxy.control.call import Call, Services
from meterproxy.control.own_key_endpoints import OwnKey, Rotation
from meterproxy.control.price_endpoints import prices
from meterproxy.control.route import Route
from meterproxy.control.spans import days_of
from meterproxy.control.usage_endpoints import StatsQuery, stats
from meterproxy.core.key import OPERATIONS
from meterproxy.dashboard.pages import page, page_route, redirect
from meterproxy.errors import ApiError
from meterproxy.store.whose import Whose


class KeysQuery(queries.Page):
    """One page of keys, and what has just been done."""

    done: str = ""


OFFERS_SECONDS: Final = 1.0
"""How long a key that was made waits to be shown for an example of a model."""
_CLEARABLE: Final = ("team_id", "models", "operations", "networks", "highest_request", "expires_at")


async def _keys(on: Services, call: Call, error: ApiError | None = None) -> web.Response:
    query = call.query
    listed = await own_key_endpoints.listed(
        on, call.asking(query=queries.Page(cursor=query.cursor if isinstance(query, KeysQuery) else None))
    )
    teams = await on.teams.list(call.account_id, None, queries.MOST_ROWS)
    totals = await on.usage.totals(call.whose(), *days_of(None, None))
    return await page(
        on,
        call,
        "keys.html",
        error=error,
        keys=listed.data,
        used={group.value: group.counts for group in totals.by.get("key", ())},
        following=listed.next_cursor,
        operations=OPERATIONS,
        teams=teams,
    )


async def _made(on: Services, call: Call) -> web.Response:
    try:
        made = await own_key_endpoints.created(on, call.asking(body=forms.read(OwnKey, _dated(call))))
    except ApiError as error:
        return await _keys(on, call, error)
    return await _shown_once(on, call, made)


async def _key(on: Services, call: Call, error: ApiError | None = None) -> web.Response:
    key = await own_key_endpoints.visible(on, call, changes=False)
    teams = await on.teams.list(call.account_id, None, queries.MOST_ROWS)
    figures = await stats(on, Whose(call.account_id, key_id=key.id), StatsQuery())
    return await page(
        on,
        call,
        "key.html",
        error=error,
        key=own_key_endpoints.shown(key),
        stats=figures,
        operations=OPERATIONS,
        teams=teams,
    )


async def _changed(on: Services, call: Call) -> web.Response:
    try:
        given = forms.read(bodies.ChangedKey, await _with_its_end(on, call))
        cleared = {name: None for name in _CLEARABLE if call.form.get(name) == ""}
        wish = given.model_copy(update={**cleared, "reads_usage": given.reads_usage})
        await own_key_endpoints.changed(on, call.asking(body=wish))
    except ApiError as error:
        return await _key(on, call, error)
    return redirect(f"/keys/{call.id()}", done="key-changed")


async def _rotated(on: Services, call: Call) -> web.Response:
    made = await own_key_endpoints.rotated(on, call.asking(body=forms.read(Rotation, call.form)))
    return await _shown_once(on, call, made)


async def _revoked(on: Services, call: Call) -> web.Response:
    await own_key_endpoints.revoked(on, call)
    return redirect("/keys", done="key-revoked")


async def _shown_once(on: Services, call: Call, made: NewlyMadeKey) -> web.Response:
    base_url = f"{call.own_url}/v1"
    model = await _a_model(on, call, made.models or ())
    return await page(on, call, "key_made.html", name=made.name, secret=made.key, base_url=base_url, model=model)


async def _a_model(on: Services, call: Call, patterns: Sequence[str]) -> str:
    """A model for the snippets: the cheapest that chats of those that the key may use, if any list can be had."""
    try:
        async with asyncio.timeout(OFFERS_SECONDS):
            models = (await prices(on, call)).data
    except (ApiError, TimeoutError):
        models = []
    chatting = [
        (Decimal(model.rate("output") or 0), model.id)
        for model in models
        if model.chats and any(fnmatchcase(model.id, pattern) for pattern in patterns or ("*",))
    ]
    return min(chatting, default=(Decimal(0), "gpt-4o-mini"))[1]


async def _with_its_end(on: Services, call: Call) -> dict[str, str]:
    """The form's fields; a key whose day was left as it was ends when it would have, not where that day begins."""
    given = _dated(call)
    if given.get("expires_at"):
        end = own_key_endpoints.shown(await own_key_endpoints.visible(on, call, changes=True)).expires_at
        if end is not None and end.astimezone(UTC).date().isoformat() == call.form["expires_at"]:
            given["expires_at"] = end.isoformat()
    return given


def _dated(call: Call) -> dict[str, str]:
    """The form's fields, with an instant for its day."""
    given = dict(call.form)
    if given.get("expires_at"):
        given["expires_at"] = forms.instant_of(given["expires_at"])
    return given


ROUTES: Final[tuple[Route, ...]] = (
    page_route("GET", "/keys", Permission.READ_OWN_KEYS, _keys, KeysQuery),
    page_route("POST", "/keys", Permission.WRITE_OWN, _made),
    page_route("GET", "/keys/{id}", Permission.READ_OWN_KEYS, _key),
    page_route("POST", "/keys/{id}", Permission.WRITE_OWN, _changed),
    page_route("POST", "/keys/{id}/rotate", Permission.WRITE_OWN, _rotated),
    page_route("POST", "/keys/{id}/revoke", Permission.WRITE_OWN, _revoked),
)
