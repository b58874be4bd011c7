"""Statements: what came into an account and went out of it, as JSON, as a CSV file, and set as a PDF."""

from datetime import date
from typing import Self

from meterproxy.control import spreadsheet
from meterproxy.control.answers import Answer, Nanos, Usd, money
from meterproxy.control.spans import Days
from meterproxy.control.usage_answers import Figures, figures
from meterproxy.store.usage import Report, ReportLine


class Credited(Answer):
    """What people booked of one kind."""

    kind: str
    entries: int
    amount: Usd
    amount_nanos: Nanos


class Line(Figures):
    """What one thing cost in one period."""

    start: date
    provider: str
    model: str
    operation: str

    @classmethod
    def of_line(cls, line: ReportLine) -> Self:
        return cls(
            start=line.start,
            provider=line.provider,
            model=line.model,
            operation=line.operation,
            **figures(line.counts),
        )


class Statement(Answer):
    """A statement that adds up: opening + credited − used − other = closing.

    `other` are charges without a usage row, on the day when they were booked. Usage counts on the day when its request
    began.
    """

    organization: str
    period: str
    first_day: date
    last_day: date
    opening: Usd
    opening_nanos: Nanos
    credited: Usd
    credited_nanos: Nanos
    used: Usd
    used_nanos: Nanos
    other: Usd
    other_nanos: Nanos
    closing: Usd
    closing_nanos: Nanos
    credits: list[Credited]
    lines: list[Line]

    @classmethod
    def of(cls, report: Report, period: str, days: Days, lines: list[Line]) -> Self:
        return cls(
            organization=report.organization,
            period=period,
            first_day=days.first,
            last_day=days.last,
            **money(
                opening=report.opening_nanos,
                credited=sum(nanos for _, _, nanos in report.credits),
                used=report.used_nanos,
                other=report.other_nanos,
                closing=report.closing_nanos,
            ),
            credits=[
                Credited(kind=kind, entries=entries, **money(amount=nanos)) for kind, entries, nanos in report.credits
            ],
            lines=lines,
        )


COLUMNS = (
    "start", "provider", "model", "operation", "requests", "failures", "input_tokens", "cached_tokens", "output_tokens",
    "amount",
)  # fmt: skip


async def as_csv(statement: Statement) -> str:
    """Its lines as a CSV file."""
    return await spreadsheet.as_csv(COLUMNS, statement.lines)
