"""The audit log: who did what, for operators."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import Field

from meterproxy.control import answers
from meterproxy.control.access import Permission
from meterproxy.control.answers import Answer
from meterproxy.control.call import Call, Services
from meterproxy.control.queries import Instant, NumberedPage
from meterproxy.control.route import Route
from meterproxy.store.audit_log import AuditFilter

Word = Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")]


class AuditPage(NumberedPage):
    """What is looked for in the audit log."""

    actor: Word | None = None
    action: Word | None = None
    subject_id: UUID | None = None
    since: Instant | None = None
    until: Instant | None = None


class AuditEntry(Answer):
    """One thing that somebody did; `detail` is as it was at that time, `actor_name` as a user is called now."""

    id: int
    occurred_at: datetime
    actor: str
    actor_name: str | None
    action: str
    subject_kind: str
    subject_id: UUID | None
    detail: dict[str, Any]


async def listed(on: Services, call: Call) -> answers.Page[AuditEntry]:
    """One page of the audit log."""
    page = call.query_as(AuditPage)
    wanted = AuditFilter(page.actor, page.action, page.subject_id, page.since, page.until)
    rows = await on.audit_log.list(wanted, page.cursor, page.limit + 1)
    return answers.Page[AuditEntry].of([AuditEntry(**asdict(row)) for row in rows], page.limit)


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        method="GET",
        path="/api/audit",
        permission=Permission.OPERATE,
        endpoint=listed,
        summary="Who did what, the latest first",
        query=AuditPage,
        answer=answers.Page[AuditEntry],
    ),
)
