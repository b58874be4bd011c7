"""`rejected`: records that PostgreSQL refused, until a person has seen to them."""

from typing import TYPE_CHECKING
from uuid import UUID

import click

from meterproxy.cli.arguments import actor, limit_option
from meterproxy.cli.invocation import Invocation, invoked

if TYPE_CHECKING:
    from meterproxy.cli.session import Session
    from meterproxy.store.rejected import RejectedRecords

_id_argument = click.argument("request_id", type=click.UUID, metavar="REQUEST_ID")


@click.group()
def command() -> None:
    """Rejected records: what PostgreSQL refused, kept for a person."""


@command.command("list")
@click.option("--all", "seen_too", is_flag=True, help="Also those that were seen to.")
@limit_option
@invoked
def list_(invocation: Invocation, seen_too: bool, limit: int) -> None:
    """List the records that wait for a person, the latest first, and what of them is booked."""
    rows = invocation.with_session(lambda session: _of(session).list(limit, seen_too=seen_too))
    columns = ("rejected_at", "request_id", "account_id", "amount", "booked", "seen_at", "error")
    invocation.show_all(rows, columns)


@command.command()
@_id_argument
@invoked
def show(invocation: Invocation, request_id: UUID) -> None:
    """Show one of them, with all that its journal says."""
    invocation.show(invocation.with_session(lambda session: _of(session).read(request_id)))


@command.command()
@_id_argument
@click.option("--reason", default="", help="What was found or done; it is in the audit log.")
@invoked
def seen(invocation: Invocation, request_id: UUID, reason: str) -> None:
    """Say that a record was seen to: `audit` does not name it any more, and its month may be dropped.

    Nothing is booked by that. What is to be charged or given back is an entry of its own: see `credit`.
    """
    invocation.with_session(lambda session: _of(session).see(request_id, reason))


def _of(session: "Session") -> "RejectedRecords":
    from meterproxy.store.rejected import RejectedRecords

    return RejectedRecords(session.pool, actor())
