"""`demo`: something to look at in the dashboard, made up."""

from typing import TYPE_CHECKING

import click

from meterproxy.cli.invocation import Invocation, invoked, note

if TYPE_CHECKING:
    from meterproxy.cli.session import Session
    from meterproxy.service.exhibit import Exhibit


@click.command()
@invoked
def command(invocation: Invocation) -> None:
    """Make an organization with a month of usage, all of it made up, to look around in the dashboard."""
    exhibit = invocation.with_session(_made)
    invocation.show(exhibit)
    note("all of this is made up: people, keys and usage; nobody was asked and nothing was paid")
    if exhibit.again:
        note("it was there already: its people have a new password now, and what they had signed in to has ended")
    note("sign in at the address of your service with one of these e-mails; the password is shown this once")


async def _made(session: "Session") -> "Exhibit":
    from meterproxy.service.catalog import catalog_of
    from meterproxy.service.exhibit import make_exhibit

    return await make_exhibit(session.pool, catalog_of(session.config))
