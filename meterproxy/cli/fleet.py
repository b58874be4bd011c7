"""`fleet`: what holds for all workers at once."""

import click

from meterproxy.cli.arguments import actor
from meterproxy.cli.invocation import Invocation, invoked


@click.group()
def command() -> None:
    """The fleet: brakes for all workers at once."""


@command.command()
@invoked
def show(invocation: Invocation) -> None:
    """Show what holds now."""
    from meterproxy.store.fleet import Fleet

    invocation.show(invocation.with_session(lambda session: Fleet(session.pool).read()))


@command.command("set")
@click.option("--lending/--no-lending", "lending", default=None, help="Whether anything is lent to workers.")
@click.option("--read-only/--read-write", "read_only", default=None, help="Whether nothing that costs is served.")
@click.option("--shadow/--no-shadow", "shadow", default=None, help="Whether limits and credit only count.")
@invoked
def set_(invocation: Invocation, **given: bool | None) -> None:
    """Change what holds, on every worker within a second."""
    from meterproxy.store.fleet import Fleet

    changes = {name: value for name, value in given.items() if value is not None}
    if not changes:
        raise click.UsageError("nothing to change was named")
    invocation.show(invocation.with_session(lambda session: Fleet(session.pool, actor()).change(changes)))
