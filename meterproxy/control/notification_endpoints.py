"""Notifications: what somebody should hear of, what he has read, and from when on credit is low."""

from datetime import datetime
from typing import Annotated, Any, Final, Self

from pydantic import Field

from meterproxy.control import answers, queries
from meterproxy.control.access import ROLES, Permission, is_operator
from meterproxy.control.answers import Answer, Nanos, Usd, money
from meterproxy.control.bodies import AmountAboveZero, Body
from meterproxy.control.call import Call, Services
from meterproxy.control.notification_words import words_of
from meterproxy.control.principal import User
from meterproxy.control.route import Route
from meterproxy.errors import ApiError, Case
from meterproxy.store.credit_marks import Mark
from meterproxy.store.notifications import NotificationRow, Reader

MOST_DIGITS: Final = 18
MOST_DAYS_AHEAD: Final = 90
"""How early anybody may be told that credit runs out."""


class NotificationPage(queries.NumberedPage):
    """One page of notifications, the latest first; `unread=1` leaves out what one has read."""

    unread: queries.Switch = "0"


class Notification(Answer):
    """Something that happened, in words and in figures; `link` is a page, `read_at` is the reader's own."""

    id: int
    kind: str
    title: str
    text: str
    link: str
    detail: dict[str, Any]
    occurred_at: datetime
    read_at: datetime | None

    @classmethod
    def of(cls, row: NotificationRow, *, sees_budgets: bool) -> Self:
        words = words_of(row.kind, row.subject_id, row.detail, sees_budgets=sees_budgets)
        return cls(
            id=row.id,
            kind=row.kind,
            title=words.title,
            text=words.text,
            link=words.link,
            detail=row.detail,
            occurred_at=row.occurred_at,
            read_at=row.read_at,
        )


class Notifications(answers.Page[Notification]):
    """One page of notifications; `unread` is how many there are in all that one has not read, at most 100."""

    unread: int


class CreditMark(Answer):
    """Below what an organization's people are told that credit is low, and what is ordered by itself then.

    They are told as well when it will be used up within `runs_out_days`, as the forecast has it; null: never.
    """

    below: Usd | None
    below_nanos: Nanos | None
    recharge: Usd | None
    recharge_nanos: Nanos | None
    runs_out_days: int | None

    @classmethod
    def of(cls, row: Mark) -> Self:
        amounts = {"below": row.below_nanos, "recharge": row.recharge_nanos}
        given = {name: nanos for name, nanos in amounts.items() if nanos is not None}
        return cls(**(dict.fromkeys(cls.model_fields) | money(**given) | {"runs_out_days": row.runs_out_days}))


class ChangedMark(Body):
    """What is not given stays as it is, but for `below`; without a mark nothing is ordered."""

    below: AmountAboveZero | None
    recharge: AmountAboveZero | None = None
    runs_out_days: Annotated[int, Field(ge=1, le=MOST_DAYS_AHEAD)] | None = None

    @property
    def kept(self) -> set[str]:
        """What of the mark stays as it is."""
        names = {"recharge": "recharge_nanos", "runs_out_days": "runs_out_days"}
        return {name for given, name in names.items() if given not in self.model_fields_set}


async def listed(on: Services, call: Call) -> Notifications:
    """One page of what the caller may see."""
    page, reader = call.query_as(NotificationPage), reader_of(call)
    rows = await on.notifications.list(reader, page.cursor, page.limit + 1, unread=page.unread == "1")
    told = [Notification.of(row, sees_budgets=_may(call, Permission.READ_ORGANIZATION)) for row in rows]
    shown = answers.Page[Notification].of(told, page.limit)
    return Notifications(data=shown.data, next_cursor=shown.next_cursor, unread=await on.notifications.unread(reader))


async def read_one(on: Services, call: Call) -> None:
    """Have one be read."""
    await on.notifications.mark_read(reader_of(call), _number(call.ids[0]))


async def read_all(on: Services, call: Call) -> None:
    """Have all be read."""
    await on.notifications.mark_read(reader_of(call))


async def mark(on: Services, call: Call) -> CreditMark:
    """When people are told of credit."""
    return CreditMark.of(await on.credit_marks.read(call.account_id))


async def marked(on: Services, call: Call) -> CreditMark:
    """Say when."""
    wish = call.body_as(ChangedMark)
    if wish.recharge is not None:
        on.purchases.check(wish.recharge, "recharge")
    wanted = Mark(wish.below, wish.recharge, wish.runs_out_days)
    return CreditMark.of(await on.credit_marks.set(call.account_id, wanted, wish.kept))


def reader_of(call: Call) -> Reader:
    """Who reads, and what the access decision lets him see."""
    acting, principal = call.acting, call.acting.principal
    reader_id = principal.id if isinstance(principal, User) else None
    return Reader(call.account_id, acting.user_id, _may(call, Permission.READ_BILLING), reader_id)


def _may(call: Call, permission: Permission) -> bool:
    """Whether the caller has another permission as well: by his role, or as an operator, who has none."""
    acting = call.acting
    return is_operator(acting.principal) if acting.role is None else acting.role in ROLES[permission]


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= MOST_DIGITS):
        raise ApiError(Case.NOT_FOUND, "There is nothing under this id.")
    return int(text)


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        method="GET",
        path="/api/notifications",
        permission=Permission.READ_NOTIFICATIONS,
        endpoint=listed,
        summary="What one should hear of, the latest first",
        query=NotificationPage,
        answer=Notifications,
    ),
    Route(
        method="POST",
        path="/api/notifications/read",
        permission=Permission.READ_NOTIFICATIONS,
        endpoint=read_all,
        summary="Have all notifications be read",
        status=204,
        refusals=(Case.CONFLICT,),
    ),
    Route(
        method="POST",
        path="/api/notifications/{id}/read",
        permission=Permission.READ_NOTIFICATIONS,
        endpoint=read_one,
        summary="Have one notification be read",
        status=204,
        refusals=(Case.CONFLICT,),
    ),
    Route(
        method="GET",
        path="/api/credits/mark",
        permission=Permission.READ_USAGE,
        endpoint=mark,
        summary="When people are told that credit is low or will run out, and what is ordered by itself then",
        answer=CreditMark,
    ),
    Route(
        method="PATCH",
        path="/api/credits/mark",
        permission=Permission.BILL,
        endpoint=marked,
        summary="Say when people are told that credit is low or will run out, and what is ordered by itself then",
        body=ChangedMark,
        answer=CreditMark,
    ),
)
