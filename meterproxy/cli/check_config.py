"""`check-config`: everything that is wrong with the configuration, or what it comes to."""

from typing import TYPE_CHECKING

import click

from meterproxy.cli.invocation import Invocation, invoked, note
from meterproxy.errors import ConfigError

if TYPE_CHECKING:
    from meterproxy.config import Config


@click.command()
@invoked
def command(invocation: Invocation) -> None:
    """Check the configuration and tell every problem; --json prints what it comes to, without secrets."""
    config = invocation.load()
    _check_providers(config)
    if invocation.as_json:
        invocation.show(config.public())
    else:
        print("the configuration is valid")
    if not config.providers:
        note("no provider is configured: `serve` will start the simulated one")
    for doubt in config.doubts:
        note(doubt)


def _check_providers(config: "Config") -> None:
    """Every provider's prices must be known, or all of its models would be refused; workers start with all of them."""
    if not config.providers:
        return
    from meterproxy.catalog.catalog import known_prices
    from meterproxy.service.providers import configured_provider

    problems = []
    for name, provider in config.providers.items():
        try:
            known_prices(provider.prices)
        except ValueError as error:
            problems.append(f"  providers.{name}.prices: {error}")
        try:
            configured_provider(name, provider)
        except ConfigError as error:
            problems.append(f"  providers.{name}: {error}")
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise ConfigError("\n".join((f"{count} with providers", *problems)))
