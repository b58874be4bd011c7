"""`check-config`: everything that is wrong with the configuration, or what it comes to."""

import click

from meterproxy.cli.invocation import Invocation, invoked, note


@click.command()
@invoked
def command(invocation: Invocation) -> None:
    """Check the configuration and tell every problem; --json prints what it comes to, without secrets."""
    config = invocation.load()
    if invocation.as_json:
        invocation.show(config.public())
    else:
        print("the configuration is valid")
    if not config.providers:
        note("no provider is configured: `serve` will start the simulated one")
