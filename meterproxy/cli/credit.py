"""`credit`: grants, balance, history."""

from typing import TYPE_CHECKING
from uuid import UUID

import click

from meterproxy.cli.account import balance_sheet
from meterproxy.cli.arguments import account_option, actor, amount_option, limit_option
from meterproxy.cli.invocation import Invocation, invoked
from meterproxy.core.entry import ENTRY_KINDS, EntryKind

if TYPE_CHECKING:
    from meterproxy.store.accounts import EntryRow

KINDS = ("grant", "purchase", "refund", "adjustment")


@click.group()
def command() -> None:
    """Credit: grants, balance, history."""


@command.command()
@account_option()
@amount_option("--amount", "amount_nanos", required=True, help="How much; an adjustment may be negative.")
@click.option("--kind", type=click.Choice(KINDS), default="grant", show_default=True, help="What the entry is.")
@click.option("--description", default="", help="Why; kept with the entry.")
@click.option("--idempotency-key", help="Repeating a command with the same key makes one entry.")
@invoked
def grant(
    invocation: Invocation,
    account_id: UUID,
    amount_nanos: int,
    kind: str,
    description: str,
    idempotency_key: str | None,
) -> None:
    """Add an entry to an account's ledger."""
    if amount_nanos == 0 or (amount_nanos < 0 and kind != "adjustment"):
        raise click.BadParameter("must be above zero (an adjustment may be negative)", param_hint="--amount")
    from meterproxy.store.accounts import Accounts

    entry = invocation.with_session(
        lambda session: Accounts(session.pool, actor()).credit(
            account_id, amount_nanos, kind, description, idempotency_key
        )
    )
    invocation.show(_entry(entry))


@command.command()
@account_option()
@invoked
def balance(invocation: Invocation, account_id: UUID) -> None:
    """Show what an account has, what is held, and what is available."""
    from meterproxy.store.accounts import Accounts

    row = invocation.with_session(lambda session: Accounts(session.pool).read(account_id))
    invocation.show(balance_sheet(row))


@command.command()
@account_option()
@limit_option
@click.option("--before", type=click.IntRange(1), metavar="ENTRY_NO", help="Only entries older than this one.")
@click.option("--kind", "kinds", type=click.Choice(ENTRY_KINDS), multiple=True, help="Only entries of this kind.")
@invoked
def history(
    invocation: Invocation, account_id: UUID, limit: int, before: int | None, kinds: tuple[EntryKind, ...]
) -> None:
    """List an account's ledger entries, newest first."""
    from meterproxy.store.accounts import Accounts

    rows = invocation.with_session(
        lambda session: Accounts(session.pool).entries(account_id, before, limit, kinds or None)
    )
    invocation.show_all(
        [_entry(row) for row in rows],
        ("entry_no", "created_at", "kind", "amount", "balance_after", "request_id", "description"),
    )


def _entry(row: "EntryRow") -> dict[str, object]:
    return {
        "account_id": row.account_id,
        "entry_no": row.entry_no,
        "kind": row.kind,
        "amount_nanos": row.amount_nanos,
        "balance_after_nanos": row.balance_after_nanos,
        "request_id": row.request_id,
        "description": row.description,
        "actor": row.actor,
        "idempotency_key": row.idempotency_key,
        "created_at": row.created_at,
    }
