"""`credit`: grants, balance, history."""

from uuid import UUID

import click

from meterproxy.cli.arguments import account_option, actor, amount_option, limit_option
from meterproxy.cli.invocation import Invocation, invoked

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

    invocation.show(
        invocation.with_session(
            lambda session: Accounts(session.pool).grant(
                account_id, amount_nanos, kind, description, idempotency_key, actor()
            )
        )
    )


@command.command()
@account_option()
@invoked
def balance(invocation: Invocation, account_id: UUID) -> None:
    """Show what an account has, what is held, and what is available."""
    from meterproxy.store.accounts import Accounts

    invocation.show(invocation.with_session(lambda session: Accounts(session.pool).balance(account_id)))


@command.command()
@account_option()
@limit_option
@click.option("--cursor", help="Go on behind the entry that an earlier page ended with.")
@invoked
def history(invocation: Invocation, account_id: UUID, limit: int, cursor: str | None) -> None:
    """List an account's ledger entries, newest first."""
    from meterproxy.store.accounts import Accounts

    rows = invocation.with_session(lambda session: Accounts(session.pool).history(account_id, cursor, limit))
    invocation.show_all(
        rows, ("entry_no", "created_at", "kind", "amount", "balance_after", "request_id", "description")
    )
