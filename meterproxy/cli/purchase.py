"""`purchase`: credit that was ordered, confirmed when it was paid."""

from typing import TYPE_CHECKING
from uuid import UUID

import click

from meterproxy.cli.arguments import account_option, actor, after_option, amount_option, limit_option
from meterproxy.cli.invocation import Invocation, invoked

if TYPE_CHECKING:
    from meterproxy.cli.session import Session
    from meterproxy.store.purchases import PurchaseRow, Purchases

STATES = ("pending", "confirmed", "declined", "cancelled")
_id_argument = click.argument("purchase_id", type=click.UUID, metavar="ID")


@click.group()
def command() -> None:
    """Purchases: credit that is ordered and paid by transfer."""


@command.command("list")
@account_option(required=False)
@click.option("--state", type=click.Choice(STATES), help="Only those.")
@click.option("--code", help="The one with this code, as it stands on a transfer.")
@after_option("Go on behind this purchase.")
@limit_option
@invoked
def list_(
    invocation: Invocation, account_id: UUID | None, state: str | None, code: str | None, after: UUID | None, limit: int
) -> None:
    """List purchases, the latest first."""
    from meterproxy.core.purchase import PurchaseState

    wanted = PurchaseState(state) if state else None
    rows = invocation.with_session(lambda session: _of(session).list(account_id, wanted, code, after, limit))
    columns = ("id", "created_at", "organization", "code", "amount", "state", "reference")
    invocation.show_all([_shown(row) for row in rows], columns)


@command.command()
@_id_argument
@amount_option("--amount", "amount_nanos", required=False, help="What arrived, where it is not what was ordered.")
@invoked
def confirm(invocation: Invocation, purchase_id: UUID, amount_nanos: int | None) -> None:
    """Book what arrived of a purchase; once, however often it is confirmed."""
    row = invocation.with_session(lambda session: _of(session).confirm(purchase_id, amount_nanos))
    invocation.show(_shown(row))


@command.command()
@_id_argument
@click.option("--reason", default="", help="Why; those who ordered are told.")
@invoked
def decline(invocation: Invocation, purchase_id: UUID, reason: str) -> None:
    """Say that a purchase was not paid."""
    invocation.show(_shown(invocation.with_session(lambda session: _of(session).decline(purchase_id, reason))))


def _of(session: "Session") -> "Purchases":
    from meterproxy.store.purchases import Purchases

    return Purchases(session.pool, session.config.billing.purchase.terms, actor())


def _shown(row: "PurchaseRow") -> dict[str, object]:
    return {
        "id": row.id,
        "account_id": row.account_id,
        "organization": row.organization,
        "code": row.code,
        "amount_nanos": row.amount_nanos,
        "state": row.state,
        "reference": row.reference,
        "ordered_by": row.ordered_by,
        "reason": row.reason or None,
        "booked_nanos": row.booked_nanos,
        "entry_no": row.entry_no,
        "created_at": row.created_at,
        "ended_at": row.ended_at,
    }
