"""`serve`: run the proxy."""

import click

from meterproxy.cli.invocation import Invocation, invoked


@click.command()
@click.option("--listen", metavar="HOST:PORT", help="Where to listen instead of what is configured.")
@click.option("--workers", metavar="N|auto", help="How many workers to run; auto: one for each CPU.")
@invoked
def command(invocation: Invocation, listen: str | None, workers: str | None) -> int:
    """Run the proxy until it is told to stop."""
    options = {"listen": listen, "workers": workers}
    given = {name: value for name, value in options.items() if value is not None}

    from meterproxy.config import ensure_secrets
    from meterproxy.service import serve

    return serve(lambda: ensure_secrets(invocation.load(given)))
