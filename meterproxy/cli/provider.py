"""`provider`: services that requests are forwarded to, beside the configured ones."""

from uuid import UUID

import click

from meterproxy.cli.arguments import actor, name_option
from meterproxy.cli.invocation import Invocation, invoked, note


@click.group()
def command() -> None:
    """Providers beside those of the configuration."""


@command.command()
@name_option("What it is called in rows and reports.")
@click.option("--base-url", required=True, help="What an OpenAI SDK would be given.")
@click.option(
    "--prices", default="openai", show_default=True, help="Whose prices hold: a provider's id in genai-prices."
)
@click.option("--model", "models", multiple=True, help="A pattern of models that it serves; all without one.")
@invoked
def add(invocation: Invocation, name: str, base_url: str, prices: str, models: tuple[str, ...]) -> None:
    """Add a provider; it serves once it has a key."""
    from meterproxy.control.provider_endpoints import NewProvider
    from meterproxy.service.providers import provider_rows

    given = {"name": name, "base_url": base_url, "prices": prices, "models": models or ("*",)}
    new = invocation.validated(NewProvider, given)
    invocation.show(
        invocation.with_session(
            lambda session: provider_rows(session.secured(), session.pool, actor()).add(
                new.name, new.base_url, new.prices, new.models
            )
        )
    )
    note("it serves once it has a key: meterproxy provider-key add")


@command.command("set")
@click.argument("provider_id", type=click.UUID, metavar="ID")
@click.option("--base-url", help="Another address; at another host it begins without keys.")
@click.option("--prices", help="Whose prices hold: a provider's id in genai-prices.")
@click.option("--model", "models", multiple=True, metavar="GLOB", help='A model it serves (repeat; "*": all).')
@invoked
def set_(
    invocation: Invocation, provider_id: UUID, base_url: str | None, prices: str | None, models: tuple[str, ...]
) -> None:
    """Change a provider; what is not named stays, and its name always does."""
    from meterproxy.control.provider_endpoints import ChangedProvider
    from meterproxy.service.providers import provider_rows

    given = {"base_url": base_url, "prices": prices, "models": models or None}
    wish = invocation.validated(ChangedProvider, given)
    invocation.show(
        invocation.with_session(
            lambda session: provider_rows(session.secured(), session.pool, actor()).change(
                provider_id, wish.base_url, wish.prices, wish.models
            )
        )
    )


@command.command("list")
@invoked
def list_(invocation: Invocation) -> None:
    """List providers, in the order they were made."""
    from meterproxy.service.providers import provider_rows

    rows = invocation.with_session(lambda session: provider_rows(session.secured(), session.pool).list())
    invocation.show_all(rows, ("id", "name", "base_url", "prices", "models", "created_at"))


@command.command()
@click.argument("provider_id", type=click.UUID)
@invoked
def remove(invocation: Invocation, provider_id: UUID) -> None:
    """Remove a provider with its keys."""
    from meterproxy.service.providers import provider_rows

    invocation.with_session(lambda session: provider_rows(session.secured(), session.pool, actor()).remove(provider_id))
