"""`host`: the machines that workers run on."""

import click

from meterproxy.cli.arguments import actor
from meterproxy.cli.invocation import Invocation, invoked, note


@click.group()
def command() -> None:
    """Hosts: the machines that workers run on."""


@command.command("list")
@invoked
def list_(invocation: Invocation) -> None:
    """List hosts that serve or are drained."""
    from meterproxy.store.fleet import Fleet

    rows = invocation.with_session(lambda session: Fleet(session.pool).hosts())
    invocation.show_all(rows, ("host", "workers", "drained_at", "trusted_until", "leased"))


@command.command()
@click.argument("host")
@invoked
def drain(invocation: Invocation, host: str) -> None:
    """Have a host give back what it has and serve nothing that costs; what runs ends as it would."""
    from meterproxy.store.fleet import Fleet

    invocation.with_session(lambda session: Fleet(session.pool, actor()).drain(host))
    note(f"{host} is drained; `meterproxy host undrain {host}` lets it serve again")


@command.command()
@click.argument("host")
@invoked
def undrain(invocation: Invocation, host: str) -> None:
    """Let a drained host serve again."""
    from meterproxy.store.fleet import Fleet

    invocation.with_session(lambda session: Fleet(session.pool, actor()).undrain(host))
    note(f"{host} serves again")
