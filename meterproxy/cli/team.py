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


_id_argument = click.argument("team_id", type=click.UUID, metavar="ID")


@command.command()
@_id_argument
@name_option("The team's new name.")
@invoked
def rename(invocation: Invocation, team_id: UUID, name: str) -> None:
    """Give a team another name."""
    from meterproxy.store.teams import Teams

    invocation.show(invocation.with_session(lambda session: Teams(session.pool, actor()).rename(team_id, name)))


@command.command()
@_id_argument
@invoked
def remove(invocation: Invocation, team_id: UUID) -> None:
    """Remove a team with its limits; its keys go on without them, and what they used stays the team's."""
    from meterproxy.store.teams import Teams

    invocation.with_session(lambda session: Teams(session.pool, actor()).remove(team_id))


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
