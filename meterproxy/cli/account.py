"""`account`: who has credit."""

from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from meterproxy.cli.arguments import actor, after_option, amount_option, limit_option, name_option
from meterproxy.cli.invocation import Invocation, invoked

if TYPE_CHECKING:
    from meterproxy.store.accounts import AccountRow


@click.group()
def command() -> None:
    """Accounts: who has credit."""


@command.command()
@name_option("The organization's name.")
@invoked
def create(invocation: Invocation, name: str) -> None:
    """Make an organization and its account."""
    from meterproxy.store.accounts import Accounts

    row = invocation.with_session(
        lambda session: Accounts(
            session.pool, actor(), session.config.limits.of_accounts, session.config.exposure_nanos
        ).create(name)
    )
    invocation.show(balance_sheet(row))


@command.command("list")
@after_option("Go on behind this account.")
@limit_option
@invoked
def list_(invocation: Invocation, after: UUID | None, limit: int) -> None:
    """List accounts with their balances, in the order they were made."""
    from meterproxy.store.accounts import Accounts

    rows = invocation.with_session(lambda session: Accounts(session.pool).list(after, limit))
    invocation.show_all(
        [balance_sheet(row) for row in rows], ("id", "organization", "balance", "held", "available", "created_at")
    )


def _account_argument(function: Any) -> Any:
    return click.argument("account_id", type=click.UUID, metavar="ID")(function)


@command.command()
@_account_argument
@invoked
def freeze(invocation: Invocation, account_id: UUID) -> None:
    """Stop everything of an account that costs, within a second; what runs ends as it would."""
    _change(invocation, account_id, frozen=True)


@command.command()
@_account_argument
@invoked
def unfreeze(invocation: Invocation, account_id: UUID) -> None:
    """Let a frozen account go on."""
    _change(invocation, account_id, frozen=False)


@command.command()
@_account_argument
@name_option("The organization's new name.")
@invoked
def rename(invocation: Invocation, account_id: UUID, name: str) -> None:
    """Give an account's organization another name."""
    _change(invocation, account_id, name=name)


@command.command("set")
@_account_argument
@amount_option("--overdraft", "overdraft_nanos", required=True, help="How far its balance may go below zero.")
@invoked
def set_(invocation: Invocation, account_id: UUID, overdraft_nanos: int) -> None:
    """Change an account's overdraft."""
    _change(invocation, account_id, overdraft_nanos=overdraft_nanos)


def _change(invocation: Invocation, account_id: UUID, **changes: Any) -> None:
    from meterproxy.store.accounts import Accounts

    row = invocation.with_session(lambda session: Accounts(session.pool, actor()).change(account_id, **changes))
    invocation.show(balance_sheet(row))


def balance_sheet(row: "AccountRow") -> dict[str, object]:
    """An account as the command line shows it."""
    return {
        "id": row.id,
        "organization_id": row.organization_id,
        "organization": row.organization,
        "balance_nanos": row.balance_nanos,
        "overdraft_nanos": row.overdraft_nanos,
        "leased_nanos": row.leased_nanos,
        "held_nanos": row.held_nanos,
        "available_nanos": row.available_nanos,
        "frozen_at": row.frozen_at,
        "created_at": row.created_at,
        "as_of": row.as_of,
    }
