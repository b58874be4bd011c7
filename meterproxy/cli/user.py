"""`user`: who owns keys, and may sign in."""

import re
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from meterproxy.cli.arguments import account_option, actor, name_option
from meterproxy.cli.invocation import Invocation, invoked, note

if TYPE_CHECKING:
    from meterproxy.cli.session import Session
    from meterproxy.store.people import UserRow


@click.group()
def command() -> None:
    """Users: who owns keys."""


@command.command()
@account_option()
@name_option("The user's name.")
@click.option("--email", help="The user's address; without one he cannot sign in.")
@click.option(
    "--password-link", is_flag=True, help="Show a link, good once and for a day, by which he sets a password."
)
@invoked
def create(invocation: Invocation, account_id: UUID, name: str, email: str | None, password_link: bool) -> None:
    """Make a user in an account's organization."""
    from meterproxy.control.auth_endpoints import EMAIL_PATTERN

    if email is not None and not re.fullmatch(EMAIL_PATTERN, email):
        raise click.BadParameter(f"not an e-mail address: {email!r}", param_hint="--email")
    if password_link and not email:
        raise click.UsageError("--password-link needs --email: who has no address cannot sign in")
    invocation.show(invocation.with_session(lambda session: _made(session, account_id, name, email, password_link)))
    if password_link:
        note("the link is shown this once; put the address of your service before it")


async def _made(session: "Session", account_id: UUID, name: str, email: str | None, password_link: bool) -> Any:
    from dataclasses import asdict

    from meterproxy.control.sign_in import allow_reset
    from meterproxy.store.accounts import Accounts
    from meterproxy.store.actor import acting_as
    from meterproxy.store.people import People

    accounts = Accounts(session.pool, actor())
    made = await accounts.create_user(account_id, name, email)
    if not password_link:
        return made
    with acting_as(actor()):
        secret = await allow_reset(People(session.pool, accounts), made.id)
    return {**asdict(made), "password_link": f"/reset?token={secret}"}


@command.command()
@click.argument("user_id", type=click.UUID, metavar="ID")
@invoked
def suspend(invocation: Invocation, user_id: UUID) -> None:
    """Let a user do nothing any more, by sign-in or by a key of his, until he is resumed."""
    invocation.show(invocation.with_session(lambda session: _suspended(session, user_id, suspended=True)))


@command.command()
@click.argument("user_id", type=click.UUID, metavar="ID")
@invoked
def resume(invocation: Invocation, user_id: UUID) -> None:
    """Let a suspended user sign in and use his keys again."""
    invocation.show(invocation.with_session(lambda session: _suspended(session, user_id, suspended=False)))


async def _suspended(session: "Session", user_id: UUID, *, suspended: bool) -> "UserRow":
    from meterproxy.store.accounts import Accounts
    from meterproxy.store.actor import acting_as
    from meterproxy.store.people import People

    with acting_as(actor()):
        return await People(session.pool, Accounts(session.pool)).suspend(user_id, suspended=suspended)
