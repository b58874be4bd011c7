"""`simulate-provider`: an OpenAI-shaped provider that costs nothing."""

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import click

from meterproxy.cli.invocation import Invocation, invoked, note

if TYPE_CHECKING:
    from meterproxy.config import Address
    from meterproxy.simulator.settings import SimulatorSettings


@click.command()
@click.option("--listen", default="127.0.0.1:8090", show_default=True, metavar="HOST:PORT", help="Where to listen.")
@click.option("--ttft-ms", type=click.FloatRange(0), default=0, help="Time to the first byte.")
@click.option("--token-ms", type=click.FloatRange(0), default=0, help="Time between two events of a stream.")
@click.option("--fail-rate", type=click.FloatRange(0, 1), default=0, help="Share of requests answered with 500.")
@click.option("--key", help="The only credential to accept (absent: any).")
@click.option("--seed", type=int, default=1, help="What texts and failures follow from.")
@invoked
def command(
    invocation: Invocation,
    listen: str,
    ttft_ms: float,
    token_ms: float,
    fail_rate: float,
    key: str | None,
    seed: int,
) -> None:
    """Run a simulated provider until it is told to stop."""
    from meterproxy.config.values import parse_address
    from meterproxy.simulator.settings import SimulatorSettings

    try:
        address = parse_address(listen)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--listen") from error
    settings = SimulatorSettings(ttft_ms=ttft_ms, token_ms=token_ms, fail_rate=fail_rate, key=key, seed=seed)
    asyncio.run(_serve(invocation, address, settings))


async def _serve(invocation: Invocation, address: "Address", settings: "SimulatorSettings") -> None:
    """Run until SIGTERM or SIGINT; as a child of `serve` also until that is gone."""
    from meterproxy.runtime import parent
    from meterproxy.simulator.app import running

    alone = parent.PARENT_FD not in os.environ
    parent.die_with_parent()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    parent.on_parent_gone(stop.set)
    try:
        async with running(settings, address.host, address.port) as base_url:
            parent.say_ready()
            if invocation.as_json:
                invocation.show({"base_url": base_url})
            elif alone:
                note(f"simulated provider on {base_url}")
            await stop.wait()
    except OSError as error:
        parent.say_failed(f"the simulated provider cannot listen on {address}: {error.strerror}")
        raise
