"""`explain`: how one request came to its amount."""

from uuid import UUID

import click

from meterproxy.cli.invocation import Invocation, invoked


@click.command()
@click.argument("request_id", type=click.UUID, metavar="REQUEST_ID")
@invoked
def command(invocation: Invocation, request_id: UUID) -> None:
    """Show a request's bound, the limits it drew from, the arithmetic of its price, and its entries."""
    from meterproxy.store.explain import explain

    invocation.show(invocation.with_session(lambda session: explain(session.pool, request_id)))
