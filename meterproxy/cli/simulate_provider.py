"""`simulate-provider`: an OpenAI-shaped provider that costs nothing."""

import asyncio
import contextlib

import click

from meterproxy.cli.invocation import Invocation, invoked, note


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
    from meterproxy.simulator.app import running
    from meterproxy.simulator.settings import SimulatorSettings

    try:
        address = parse_address(listen)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--listen") from error
    settings = SimulatorSettings(ttft_ms=ttft_ms, token_ms=token_ms, fail_rate=fail_rate, key=key, seed=seed)

    async def serve() -> None:
        async with running(settings, address.host, address.port) as base_url:
            if invocation.as_json:
                invocation.show({"base_url": base_url})
            else:
                note(f"simulated provider on {base_url}")
            await asyncio.Event().wait()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())
