"""Notifications: the list behind the bell, and from when on credit is low."""

from typing import Final

from aiohttp import web

from meterproxy.control import forms, notification_endpoints
from meterproxy.control.access import Permission
from meterproxy.control.call import Call, Services
from meterproxy.control.notification_endpoints import ChangedMark, NotificationPage
from meterproxy.control.route import Route
from meterproxy.dashboard.credit_pages import credits_page
from meterproxy.dashboard.pages import page, page_route, redirect
from meterproxy.errors import ApiError

ROWS: Final = 50


class NotificationsQuery(NotificationPage):
    """One page of notifications, and what has just been done."""

    done: str = ""


async def _notifications(on: Services, call: Call) -> web.Response:
    given = call.query_as(NotificationsQuery)
    query = NotificationPage(cursor=given.cursor, unread=given.unread, limit=ROWS)
    listed = await notification_endpoints.listed(on, call.asking(query=query))
    return await page(
        on,
        call,
        "notifications.html",
        notifications=listed.data,
        following=listed.next_cursor,
        only_unread=given.unread == "1",
    )


async def _read_all(on: Services, call: Call) -> web.Response:
    await notification_endpoints.read_all(on, call)
    return redirect("/notifications", done="read")


async def _read_one(on: Services, call: Call) -> web.Response:
    await notification_endpoints.read_one(on, call)
    return redirect("/notifications")


async def _marked(on: Services, call: Call) -> web.Response:
    try:
        given = {name: text.strip() for name, text in call.form.items()}
        read = forms.read(ChangedMark, given | {"below": given.get("below") or "1"})
        below = read.below if given.get("below") else None
        emptied = {name: getattr(read, name) for name in given.keys() & {"recharge", "runs_out_days"}}
        wish = read.model_copy(update={"below": below} | emptied)  # what is left empty is taken away
        await notification_endpoints.marked(on, call.asking(body=wish))
    except ApiError as error:
        return await credits_page(on, call, error)
    return redirect("/credits", done="mark")


ROUTES: Final[tuple[Route, ...]] = (
    page_route("GET", "/notifications", Permission.READ_NOTIFICATIONS, _notifications, NotificationsQuery),
    page_route("POST", "/notifications/read", Permission.READ_NOTIFICATIONS, _read_all),
    page_route("POST", "/notifications/{id}/read", Permission.READ_NOTIFICATIONS, _read_one),
    page_route("POST", "/credits/mark", Permission.BILL, _marked),
)
