"""`_workers`: what the supervisor starts to fork workers of."""

import gc

import click


@click.command(hidden=True)
def command() -> int:
    """Fork workers; started by `serve`."""
    gc.disable()  # all that is imported stays: to look through it again and again is a tenth of a start
    from meterproxy.runtime.fork_server import fork_when_asked
    from meterproxy.service.worker import main

    gc.enable()
    return fork_when_asked(main)
