"""`team`: keys that share limits."""

from uuid import UUID

import click

from meterproxy.cli.arguments import account_option, actor, after_option, limit_option, name_option
from meterproxy.cli.invocation import Invocation, invoked


@click.group()
def command() -> None:
    """Teams: keys that share limits."""


@command.command()
@account_option()
@name_option("The team's name.")
@invoked
def create(invocation: Invocation, account_id: UUID, name: str) -> None:
    """Make a team in the account's organization."""
    from meterproxy.store.teams import Teams

    invocation.show(invocation.with_session(lambda session: Teams(session.pool, actor()).create(account_id, name)))


@command.command("list")
@account_option(required=False)
@after_option("Go on behind this team.")
@limit_option
@invoked
def list_(invocation: Invocation, account_id: UUID | None, after: UUID | None, limit: int) -> None:
    """List teams, of one account or of all, in the order they were made."""
    from meterproxy.store.teams import Teams

    rows = invocation.with_session(lambda session: Teams(session.pool).list(account_id, after, limit))
    invocation.show_all(rows, ("id", "name", "organization_id", "created_at"))
