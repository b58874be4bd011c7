"""`provider-key`: our credentials at providers. Secrets come in by standard input, never as an argument."""

import sys
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import click

from meterproxy.cli.arguments import actor
from meterproxy.cli.invocation import Invocation, invoked, note

if TYPE_CHECKING:
    from meterproxy.cli.session import Session
    from meterproxy.store.providers import OpenedProvider, ProviderKeyRow

MOST_LETTERS: Final = 10_000
"""Read of standard input: more than a secret may have, so that one that is too long is told of."""

_untested = click.option("--untested", is_flag=True, help="Keep it without asking the provider whether it takes it.")


@click.group()
def command() -> None:
    """Our keys at providers that were added."""


@command.command()
@click.option("--provider", "provider_id", type=click.UUID, required=True, help="The provider's id.")
@click.option("--name", default="", help="What people call it.")
@_untested
@invoked
def add(invocation: Invocation, provider_id: UUID, name: str, untested: bool) -> None:
    """Add a key, whose secret is read from standard input."""
    from meterproxy.control.provider_bodies import NewProviderKey

    given = {"provider_id": provider_id, "secret": _secret(), "name": name}
    secret = invocation.validated(NewProviderKey, given).secret.get_secret_value()

    async def work(session: "Session") -> Any:
        rows = _rows(session)
        tried_at = None
        if not untested:
            place = await rows.reached(provider_id)
            await _tried(place, secret)
            tried_at = place.terms
        return await rows.add_key(provider_id, secret, name, tried_at)

    _show(invocation, invocation.with_session(work))


@command.command("list")
@invoked
def list_(invocation: Invocation) -> None:
    """List keys, without their secrets."""
    rows = invocation.with_session(lambda session: _rows(session).keys())
    columns = ("id", "provider_id", "name", "last_four", "created_at", "changed_at", "usable")
    invocation.show_all(map(_shown, rows), columns)


@command.command()
@click.argument("key_id", type=click.UUID)
@_untested
@invoked
def rotate(invocation: Invocation, key_id: UUID, untested: bool) -> None:
    """Put another secret, read from standard input, in the place of a key's."""
    from meterproxy.control.provider_bodies import ChangedProviderKey

    secret = invocation.validated(ChangedProviderKey, {"secret": _secret()}).secret.get_secret_value()

    async def work(session: "Session") -> Any:
        rows = _rows(session)
        if not untested:
            await _tried(await rows.reached(await rows.provider_of_key(key_id)), secret)
        return await rows.rotate_key(key_id, secret)

    _show(invocation, invocation.with_session(work))


@command.command()
@click.argument("key_id", type=click.UUID)
@invoked
def remove(invocation: Invocation, key_id: UUID) -> None:
    """Forget a key."""
    invocation.with_session(lambda session: _rows(session).remove_key(key_id))


@command.command()
@invoked
def reseal(invocation: Invocation) -> int:
    """Seal under master_key what master_key_previous has sealed."""
    done, failed = invocation.with_session(lambda session: _rows(session).reseal())
    note(f"{done} secrets are sealed anew" + (f", {failed} cannot be opened by either master key" if failed else ""))
    return 1 if failed else 0


def _secret() -> str:
    """What stands in the first line of standard input, as far as it may be a secret."""
    if sys.stdin.isatty():
        return str(click.prompt("Secret", hide_input=True, err=True)).strip()
    try:
        return sys.stdin.readline(MOST_LETTERS).strip()
    except UnicodeDecodeError:
        raise click.UsageError("secret: must be printable ASCII without spaces") from None


async def _tried(place: "OpenedProvider", secret: str) -> None:
    from meterproxy.control.provider_endpoints import tried

    note(f"the provider takes it and lists {await tried(place, secret)} models")


def _rows(session: "Session") -> Any:
    from meterproxy.service.providers import provider_rows

    return provider_rows(session.secured(), session.pool, actor())


def _shown(row: "ProviderKeyRow") -> dict[str, Any]:
    """As the API shows it."""
    from meterproxy.control.provider_endpoints import ProviderKey

    return ProviderKey.of(row).model_dump()


def _show(invocation: Invocation, row: Any) -> None:
    invocation.show(_shown(row))
