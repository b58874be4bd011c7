"""`user`: who owns keys."""

from uuid import UUID

import click

from meterproxy.cli.arguments import account_option, actor, name_option
from meterproxy.cli.invocation import Invocation, invoked


@click.group()
def command() -> None:
    """Users: who owns keys."""


@command.command()
@account_option()
@name_option("The user's name.")
@click.option("--email", help="The user's address.")
@invoked
def create(invocation: Invocation, account_id: UUID, name: str, email: str | None) -> None:
    """Make a user in an account's organization."""
    from meterproxy.store.accounts import Accounts

    invocation.show(
        invocation.with_session(lambda session: Accounts(session.pool, actor()).create_user(account_id, name, email))
    )
