"""`_worker`: what the supervisor starts for each worker."""

import click


@click.command(hidden=True)
def command() -> int:
    """Run one worker; started by `serve`."""
    from meterproxy.service.worker import main

    return main()
