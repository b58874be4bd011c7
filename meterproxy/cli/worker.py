"""`_worker`: what the supervisor starts for each worker."""

import gc

import click


@click.command(hidden=True)
def command() -> int:
    """Run one worker; started by `serve`."""
    gc.disable()  # all that is imported stays: to look through it again and again is a tenth of a start
    from meterproxy.service.worker import main

    gc.enable()
    return main()
