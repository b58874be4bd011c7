"""`account`: who has credit."""

import click

from meterproxy.cli.arguments import limit_option
from meterproxy.cli.invocation import Invocation, invoked


@click.group()
def command() -> None:
    """Accounts: who has credit."""


@command.command()
@click.option("--name", required=True, help="The organization's name.")
@invoked
def create(invocation: Invocation, name: str) -> None:
    """Make an organization and its account."""
    from meterproxy.store.accounts import Accounts

    invocation.show(invocation.with_session(lambda session: Accounts(session.pool).create(name)))


@command.command("list")
@limit_option
@invoked
def list_(invocation: Invocation, limit: int) -> None:
    """List accounts with their balances."""
    from meterproxy.store.accounts import Accounts

    rows = invocation.with_session(lambda session: Accounts(session.pool).list(limit=limit))
    invocation.show_all(rows, ("id", "organization", "balance", "held", "available", "created_at"))
