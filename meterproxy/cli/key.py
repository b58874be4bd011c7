"""`key`: the secrets that clients present."""

from datetime import datetime
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from meterproxy.cli.arguments import (
    account_option,
    actor,
    after_option,
    amount_option,
    checked_name,
    limit_option,
    name_option,
)
from meterproxy.cli.invocation import Invocation, invoked, note
from meterproxy.core.key import OPERATIONS
from meterproxy.core.money import parse_usd
from meterproxy.store.instants import storable

if TYPE_CHECKING:
    from meterproxy.store.keys import NewKey


@click.group()
def command() -> None:
    """Keys: the secrets that clients present."""


@command.command()
@account_option()
@name_option("What the key is for.")
@click.option("--user", "user_id", type=click.UUID, metavar="ID", help="Its owner (absent: the service user).")
@click.option("--team", "team_id", type=click.UUID, metavar="ID", help="The team whose limits it draws from.")
@click.option("--model", "models", multiple=True, metavar="GLOB", help="A model it may use (repeat; absent: all).")
@click.option(
    "--operation",
    "operations",
    multiple=True,
    type=click.Choice(OPERATIONS),
    metavar="NAME",
    help="An operation it may use (repeat; absent: all).",
)
@click.option("--network", "networks", multiple=True, metavar="CIDR", help="Where it may come from (repeat).")
@amount_option("--highest-request", "highest_request_nanos", required=False, help="The dearest request it may make.")
@click.option("--reads-usage", is_flag=True, help="It may read everybody's usage and costs, as reporting tools do.")
@click.option("--expires-at", metavar="INSTANT", help="When it ends, such as 2030-01-31T00:00:00Z (absent: never).")
@click.option("--description", default="", help="More about what it is for.")
@invoked
def create(
    invocation: Invocation,
    account_id: UUID,
    name: str,
    user_id: UUID | None,
    team_id: UUID | None,
    models: tuple[str, ...],
    operations: tuple[str, ...],
    networks: tuple[str, ...],
    highest_request_nanos: int | None,
    reads_usage: bool,
    expires_at: str | None,
    description: str,
) -> None:
    """Make a key; its secret is shown this once."""
    from meterproxy.core.key import KeyPolicy
    from meterproxy.store.keys import Keys

    if highest_request_nanos is not None and highest_request_nanos <= 0:
        raise click.BadParameter("must be above zero", param_hint="--highest-request")
    policy = KeyPolicy(models or None, operations or None, _networks(networks), highest_request_nanos)
    until = _instant(expires_at)
    created = invocation.with_session(
        lambda session: Keys(session.pool, actor(), session.config.limits.of_keys).create(
            account_id,
            name,
            user_id=user_id,
            team_id=team_id,
            description=description,
            policy=policy,
            expires_at=until,
            reads_usage=reads_usage,
        )
    )
    _show_secret(invocation, created)


@command.command("list")
@account_option(required=False)
@after_option("Go on behind this key.")
@limit_option
@invoked
def list_(invocation: Invocation, account_id: UUID | None, after: UUID | None, limit: int) -> None:
    """List keys, of one account or of all, in the order they were made."""
    from meterproxy.store.keys import Keys

    rows = invocation.with_session(lambda session: Keys(session.pool).list(account_id, after, limit))
    invocation.show_all(rows, ("id", "prefix", "name", "created_at", "expires_at", "revoked_at"))


NO_RESTRICTION = "any"


@command.command("set")
@click.argument("key_id", type=click.UUID, metavar="ID")
@click.option("--name", metavar="TEXT", help="What the key is for.")
@click.option("--description", metavar="TEXT", help="More about what it is for.")
@click.option("--team", "team_id", metavar="ID", help='The team whose limits it draws from; "any": none.')
@click.option("--model", "models", multiple=True, metavar="GLOB", help='A model it may use (repeat; "any": all).')
@click.option("--operation", "operations", multiple=True, metavar="NAME", help='What it may do (repeat; "any": all).')
@click.option("--network", "networks", multiple=True, metavar="CIDR", help='Where it may come from (repeat; "any").')
@click.option("--highest-request", metavar="USD", help='The dearest request it may make; "any": no such bound.')
@click.option("--reads-usage/--no-reads-usage", default=None, help="Whether it may read everybody's usage and costs.")
@click.option("--expires-at", metavar="INSTANT", help='When it ends; "any": never.')
@invoked
def set_(invocation: Invocation, key_id: UUID, **given: Any) -> None:
    """Change what a key may do; in force on every worker within a second. What is not named stays."""
    from meterproxy.store.keys import Keys

    named = {member: value for member, value in given.items() if value not in {None, ()}}
    changes = {_COLUMNS.get(member, member): _change(member, value) for member, value in named.items()}
    row = invocation.with_session(lambda session: Keys(session.pool, actor()).change(key_id, changes))
    invocation.show(row)


_COLUMNS = {"highest_request": "highest_request_nanos"}


def _change(member: str, value: Any) -> Any:
    """What a key's row is to say instead."""
    if member not in {"name", "description"} and value in {NO_RESTRICTION, (NO_RESTRICTION,)}:
        return None
    match member:
        case "team_id":
            return _uuid(value)
        case "operations":
            return _operations(value)
        case "networks":
            return _networks(value)
        case "highest_request":
            return _highest(value)
        case "expires_at":
            return _instant(value)
        case "name":
            return checked_name(value, "--name")
    return value


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise click.BadParameter("not an id", param_hint="--team") from error


def _operations(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if name not in OPERATIONS:
            raise click.BadParameter(f"{name!r} is not one of {', '.join(OPERATIONS)}", param_hint="--operation")
    return names


def _highest(text: str) -> int:
    try:
        nanos = parse_usd(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--highest-request") from error
    if nanos <= 0:
        raise click.BadParameter("must be above zero", param_hint="--highest-request")
    return nanos


@command.command()
@click.argument("key_id", type=click.UUID, metavar="ID")
@invoked
def revoke(invocation: Invocation, key_id: UUID) -> None:
    """Revoke a key; every worker that reaches the database refuses it within a second."""
    from meterproxy.store.keys import Keys

    invocation.show(invocation.with_session(lambda session: Keys(session.pool, actor()).revoke(key_id)))


@command.command()
@click.argument("key_id", type=click.UUID, metavar="ID")
@click.option(
    "--grace-seconds", type=click.IntRange(0), default=0, show_default=True, help="How long the old one goes on."
)
@invoked
def rotate(invocation: Invocation, key_id: UUID, grace_seconds: int) -> None:
    """Make a new secret with the old key's name and policy; the old one ends after the grace time."""
    from meterproxy.store.keys import Keys

    created = invocation.with_session(lambda session: Keys(session.pool, actor()).rotate(key_id, grace_seconds))
    _show_secret(invocation, created)


def _show_secret(invocation: Invocation, created: "NewKey") -> None:
    row = created.row
    invocation.show(
        {
            "id": row.id,
            "key": created.secret,
            "prefix": row.prefix,
            "account_id": row.account_id,
            "user_id": row.user_id,
            "name": row.name,
            "created_at": row.created_at,
            "expires_at": row.expires_at,
        }
    )
    note("the key is shown this once; it is stored only as a hash")


def _networks(texts: tuple[str, ...]) -> tuple[IPv4Network | IPv6Network, ...] | None:
    try:
        return tuple(ip_network(text) for text in texts) or None
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--network") from error


def _instant(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        instant = datetime.fromisoformat(text)
        if instant.tzinfo is None:
            raise ValueError("it needs a time zone")  # noqa: TRY301  told like what fromisoformat tells
        return storable(instant)
    except ValueError as error:
        raise click.BadParameter(
            f"not an instant such as 2030-01-31T00:00:00Z: {error}", param_hint="--expires-at"
        ) from error
