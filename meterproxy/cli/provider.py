"""`provider`: services that requests are forwarded to, beside the configured ones."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import click

from meterproxy.cli.arguments import actor, name_option
from meterproxy.cli.invocation import Invocation, invoked, note

if TYPE_CHECKING:
    from meterproxy.store.providers import ProviderRow, ProviderRows

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])


def _reaching(command: Command) -> Command:
    """The options of how a provider is reached, which adding and changing one have in common."""
    for option in (
        click.option("--between-bytes-seconds", type=float, help="The longest silence within an answer; 300 at first."),
        click.option("--first-byte-seconds", type=float, help="The longest wait for an answer to begin; 600 at first."),
        click.option("--connect-seconds", type=float, help="The longest wait for a connection; 5 at first."),
        click.option(
            "--tls-ca-file",
            type=click.Path(path_type=Path, exists=True, dir_okay=False),
            help="Certificates in PEM of the authorities to trust instead of the system's; the file is read once.",
        ),
        click.option(
            "--headers",
            "headers",
            type=click.File(encoding="utf-8", errors="replace"),
            metavar="FILE",
            help="Lines of `Name: value` to send with every request (-: standard input); values are never shown.",
        ),
    ):
        command = option(command)
    return command


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
@_reaching
@invoked
def add(invocation: Invocation, name: str, base_url: str, prices: str, models: tuple[str, ...], **reached: Any) -> None:
    """Add a provider; it serves once it has a key."""
    from meterproxy.control.provider_bodies import NewProvider

    given = {"name": name, "base_url": base_url, "prices": prices, "models": models or ("*",), **_given(reached)}
    new = invocation.validated(NewProvider, given)
    invocation.show(_shown(_done(invocation, lambda rows: rows.add(new.name, new.terms(), new.header_values()))))
    note("it serves once it has a key: meterproxy provider-key add")


@command.command("set")
@click.argument("provider_id", type=click.UUID, metavar="ID")
@click.option("--base-url", help="Another address; at another host it begins without keys and headers.")
@click.option("--prices", help="Whose prices hold: a provider's id in genai-prices.")
@click.option("--model", "models", multiple=True, metavar="GLOB", help='A model it serves (repeat; "*": all).')
@_reaching
@click.option("--system-tls", is_flag=True, help="Trust the system's authorities again.")
@invoked
def set_(
    invocation: Invocation,
    provider_id: UUID,
    base_url: str | None,
    prices: str | None,
    models: tuple[str, ...],
    system_tls: bool,
    **reached: Any,
) -> None:
    """Change a provider; what is not named stays, and its name always does. A header without a value is forgotten."""
    from meterproxy.control.provider_bodies import ChangedProvider

    if system_tls and reached["tls_ca_file"]:
        raise click.UsageError("--tls-ca-file and --system-tls exclude each other")
    given = {"base_url": base_url, "prices": prices, "models": models or None, **_given(reached)}
    wish = invocation.validated(ChangedProvider, {**given, "tls_ca": None} if system_tls else given)
    invocation.show(
        _shown(_done(invocation, lambda rows: rows.change(provider_id, wish.changes(), wish.header_values())))
    )


@command.command("list")
@invoked
def list_(invocation: Invocation) -> None:
    """List providers, in the order they were made."""
    rows = _done(invocation, lambda rows: rows.list())
    invocation.show_all(map(_shown, rows), ("id", "name", "base_url", "prices", "models", "created_at"))


@command.command()
@click.argument("provider_id", type=click.UUID)
@invoked
def remove(invocation: Invocation, provider_id: UUID) -> None:
    """Remove a provider with its keys."""
    _done(invocation, lambda rows: rows.remove(provider_id))


def _given(reached: dict[str, Any]) -> dict[str, Any]:
    """The options of how a provider is reached as the API has them; what was not given is not there."""
    from meterproxy.control.forms import table

    seconds = {name: value for name, value in reached.items() if name.endswith("_seconds") and value is not None}
    given: dict[str, Any] = {"timeouts": seconds} if seconds else {}
    if reached["headers"] is not None:
        given["headers"] = table(reached["headers"].read())
    if reached["tls_ca_file"] is not None:
        given["tls_ca"] = reached["tls_ca_file"].read_text(encoding="utf-8", errors="replace")
    return given


def _done(invocation: Invocation, work: "Callable[[ProviderRows], Awaitable[T]]") -> T:
    from meterproxy.service.providers import provider_rows

    return invocation.with_session(lambda session: work(provider_rows(session.secured(), session.pool, actor())))


def _shown(row: "ProviderRow") -> dict[str, Any]:
    """As the API shows it."""
    from meterproxy.control.provider_endpoints import StoredProvider

    return StoredProvider.of(row).model_dump()
