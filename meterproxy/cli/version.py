"""`version`: which release this is."""

import click

import meterproxy
from meterproxy.cli.invocation import Invocation, invoked


@click.command()
@invoked
def command(invocation: Invocation) -> None:
    """Print the version."""
    if invocation.as_json:
        invocation.show({"version": meterproxy.__version__})
    else:
        print(f"meterproxy {meterproxy.__version__}")
