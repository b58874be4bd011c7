"""`limit`: budgets and rate limits."""

from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from meterproxy.cli.arguments import account_option, actor, after_option, limit_option
from meterproxy.cli.invocation import Invocation, invoked
from meterproxy.core.key import OPERATIONS
from meterproxy.core.limit import Measure, Scope
from meterproxy.core.limit_terms import MARKS
from meterproxy.core.money import format_usd, parse_usd
from meterproxy.core.window import WindowKind

if TYPE_CHECKING:
    from meterproxy.store.limits import LimitRow, LimitStatus

MEASURES = [measure.name.lower() for measure in Measure]
WINDOWS = [kind.value for kind in WindowKind if kind is not WindowKind.NONE]
NO_CAP = "none"


@click.group()
def command() -> None:
    """Limits: budgets and rate limits."""


_id_argument = click.argument("limit_id", type=click.UUID, metavar="ID")


def _terms_options(function: Any) -> Any:
    """The options that `create` and `set` have in common."""
    for option in (
        click.option("--name", help="What people call it; refusals name it.", metavar="TEXT"),
        click.option("--mark", "marks", multiple=True, type=int, metavar="PERCENT", help="What to record (repeat)."),
        click.option("--grace", metavar="N", help="How far beyond its cap it still lends, in its own measure."),
    ):
        function = option(function)
    return function


@command.command()
@click.option("--scope", required=True, type=click.Choice([scope.value for scope in Scope]), help="Whose requests.")
@click.option("--scope-id", required=True, type=click.UUID, metavar="ID", help="The id of the scope.")
@click.option("--measure", required=True, type=click.Choice(MEASURES), help="What is counted.")
@click.option("--window", type=click.Choice(WINDOWS), help="For how long (none for concurrent).")
@click.option("--cap", metavar="N", help="USD for amounts, else a whole number (absent: only count).")
@click.option("--operation", type=click.Choice(OPERATIONS), metavar="NAME", help="Only this operation.")
@click.option("--model", "model_pattern", metavar="GLOB", help="Only models of this pattern.")
@click.option("--time-zone", default="UTC", show_default=True, metavar="NAME", help="Where its days begin.")
@click.option("--soft", is_flag=True, help="Count and record crossings, never refuse.")
@click.option("--from-now", is_flag=True, help="Begin at nothing instead of with what the window has seen already.")
@_terms_options
@invoked
def create(
    invocation: Invocation,
    scope: str,
    scope_id: UUID,
    measure: str,
    window: str | None,
    cap: str | None,
    operation: str | None,
    model_pattern: str | None,
    time_zone: str,
    soft: bool,
    from_now: bool,
    name: str | None,
    marks: tuple[int, ...],
    grace: str | None,
) -> None:
    """Make a limit; in force on every worker within a second."""
    from meterproxy.core.limit_terms import LimitTerms
    from meterproxy.store.limits import Limits

    kind = Measure[measure.upper()]
    terms = LimitTerms(
        measure=kind,
        window=WindowKind(window or "none"),
        cap=_quantity(cap, kind, "--cap"),
        time_zone=time_zone,
        hard=not soft,
        grace=_quantity(grace, kind, "--grace") or 0,
        operation=operation,
        model_pattern=model_pattern,
        name=name or "",
        marks=marks or MARKS,
    )
    row = invocation.with_session(
        lambda session: Limits(session.pool, actor()).create(Scope(scope), scope_id, terms, seed=not from_now)
    )
    invocation.show(shown(row))


@command.command("list")
@account_option(required=False)
@click.option("--scope-id", type=click.UUID, metavar="ID", help="Only of this scope.")
@click.option("--retired", is_flag=True, help="Those too that have ended.")
@after_option("Go on behind this limit.")
@limit_option
@invoked
def list_(
    invocation: Invocation,
    account_id: UUID | None,
    scope_id: UUID | None,
    retired: bool,
    after: UUID | None,
    limit: int,
) -> None:
    """List limits in the order they were made."""
    from meterproxy.store.limits import Limits

    rows = invocation.with_session(
        lambda session: Limits(session.pool).list(account_id, scope_id, after, limit, retired=retired)
    )
    columns = ("id", "name", "scope", "scope_id", "measure", "window", "cap", "enforcement", "operation", "model")
    invocation.show_all([shown(row) for row in rows], columns)


@command.command("set")
@_id_argument
@click.option("--cap", metavar="N", help=f"USD for amounts, else a whole number, or {NO_CAP!r}.")
@click.option("--hard/--soft", "hard", default=None, help="Whether it refuses.")
@_terms_options
@invoked
def set_(
    invocation: Invocation,
    limit_id: UUID,
    cap: str | None,
    hard: bool | None,
    name: str | None,
    marks: tuple[int, ...],
    grace: str | None,
) -> None:
    """Change a limit; in force on every worker within a second. Its window and whose it is cannot change."""
    from meterproxy.store.limits import Limits

    async def changed(session: Any) -> "LimitRow":
        limits = Limits(session.pool, actor())
        measure = (await limits.read(limit_id)).limit.measure
        changes: dict[str, Any] = {
            "cap": None if cap is None or cap == NO_CAP else _quantity(cap, measure, "--cap"),
            "grace": _quantity(grace, measure, "--grace"),
            "enforcement": None if hard is None else ("hard" if hard else "soft"),
            "name": name,
            "marks": marks or None,
        }
        given = {member: value for member, value in changes.items() if value is not None}
        return await limits.change(limit_id, {**given, "cap": None} if cap == NO_CAP else given)

    invocation.show(shown(invocation.with_session(changed)))


@command.command()
@_id_argument
@invoked
def retire(invocation: Invocation, limit_id: UUID) -> None:
    """End a limit; what it has counted is kept."""
    from meterproxy.store.limits import Limits

    invocation.show(shown(invocation.with_session(lambda session: Limits(session.pool, actor()).retire(limit_id))))


@command.command()
@_id_argument
@invoked
def status(invocation: Invocation, limit_id: UUID) -> None:
    """Show how far a limit's current window has been used."""
    from meterproxy.store.limits import Limits

    told = invocation.with_session(lambda session: Limits(session.pool).status(limit_id))
    invocation.show(_status(told))


def shown(row: "LimitRow") -> dict[str, Any]:
    """A limit as the command line shows it."""
    return {
        "id": row.id,
        "account_id": row.account_id,
        "name": row.name or None,
        "scope": row.scope,
        "scope_id": row.scope_id,
        "measure": row.measure,
        "operation": row.operation,
        "model": row.model_pattern,
        "window": None if row.window_kind == "none" else row.window_kind,
        "time_zone": row.time_zone,
        **_quantities(row, cap=row.cap, grace=row.grace),
        "enforcement": row.enforcement,
        "marks": row.marks,
        "created_at": row.created_at,
        "retired_at": row.retired_at,
    }


def _status(told: "LimitStatus") -> dict[str, Any]:
    row = told.limit
    return {
        "id": row.id,
        "name": row.name or None,
        "measure": row.measure,
        "window": None if row.window_kind == "none" else row.window_kind,
        "window_start": told.window_start,
        "window_end": told.window_end,
        **_quantities(row, cap=row.cap, used=told.used, held=told.held, remaining=told.remaining),
        "crossings": [
            {"mark": crossing.mark, "crossed_at": crossing.crossed_at, **_quantities(row, used=crossing.used)}
            for crossing in told.crossings
        ],
        "as_of": told.as_of,
    }


def _quantities(row: "LimitRow", **quantities: int | None) -> dict[str, Any]:
    """Quantities in the limit's measure: money as text and in nanodollars."""
    if row.measure != "amount":
        return dict(quantities)
    told: dict[str, Any] = {}
    for name, nanos in quantities.items():
        told |= {name: None if nanos is None else format_usd(nanos), f"{name}_nanos": nanos}
    return told


def _quantity(text: str | None, measure: Measure, hint: str) -> int | None:
    if text is None:
        return None
    try:
        return parse_usd(text) if measure is Measure.AMOUNT else int(text)
    except ValueError as error:
        told = str(error) if measure is Measure.AMOUNT else "must be a whole number"
        raise click.BadParameter(told, param_hint=hint) from error
