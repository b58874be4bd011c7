"""`user`: who owns keys, and may sign in."""

import re
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from meterproxy.cli.arguments import account_option, actor, after_option, limit_option, name_option
from meterproxy.cli.invocation import Invocation, invoked, note
from meterproxy.core.role import Role

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from meterproxy.cli.session import Session
    from meterproxy.store.identities import Identities, IdentityRow
    from meterproxy.store.members import MemberRow
    from meterproxy.store.people import UserRow


@click.group()
def command() -> None:
    """Users: who owns keys."""


@command.command()
@account_option()
@name_option("The user's name.")
@click.option("--email", help="The user's address; without one he cannot sign in.")
@click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    default=Role.MEMBER.value,
    show_default=True,
    help="What he is in the organization.",
)
@click.option(
    "--password-link", is_flag=True, help="Show a link, good once and for a day, by which he sets a password."
)
@invoked
def create(
    invocation: Invocation, account_id: UUID, name: str, email: str | None, role: str, password_link: bool
) -> None:
    """Make a user in an account's organization."""
    from meterproxy.control.auth_endpoints import EMAIL_PATTERN

    if email is not None and not re.fullmatch(EMAIL_PATTERN, email):
        raise click.BadParameter(f"not an e-mail address: {email!r}", param_hint="--email")
    if password_link and not email:
        raise click.UsageError("--password-link needs --email: who has no address cannot sign in")
    invocation.show(
        invocation.with_session(lambda session: _made(session, account_id, name, email, Role(role), password_link))
    )
    if password_link:
        note("the link is shown this once; put the address of your service before it")


async def _made(
    session: "Session", account_id: UUID, name: str, email: str | None, role: Role, password_link: bool
) -> Any:
    from dataclasses import asdict

    from meterproxy.control.sign_in import allow_reset
    from meterproxy.store.accounts import Accounts
    from meterproxy.store.actor import acting_as
    from meterproxy.store.people import People

    accounts = Accounts(session.pool, actor())
    made = await accounts.create_user(account_id, name, email, role)
    told = {**asdict(made), "role": role.value}
    if not password_link:
        return told
    with acting_as(actor()):
        secret = await allow_reset(People(session.pool, accounts), made.id)
    return {**told, "password_link": f"/reset?token={secret}"}


@command.command("list")
@click.option("--search", metavar="TEXT", help="Only those with this in their name or e-mail.")
@account_option(required=False)
@after_option("Go on behind this user.")
@limit_option
@invoked
def list_(invocation: Invocation, search: str | None, account_id: UUID | None, after: UUID | None, limit: int) -> None:
    """List people in the order in which they came; with --account, who belongs to its organization, in which role."""
    if account_id is not None:
        if search is not None:
            raise click.UsageError("--search looks through everybody: leave --account away")
        members = invocation.with_session(lambda session: _members(session, account_id, after, limit))
        invocation.show_all(members, ("id", "name", "email", "role", "suspended_at", "created_at"))
        return
    from meterproxy.store.accounts import Accounts
    from meterproxy.store.people import People

    rows = invocation.with_session(
        lambda session: People(session.pool, Accounts(session.pool)).list(search, after, limit)
    )
    invocation.show_all(rows, ("id", "name", "email", "is_operator", "suspended_at", "created_at"))


async def _members(session: "Session", account_id: UUID, after: UUID | None, limit: int) -> "Sequence[MemberRow]":
    from meterproxy.store.accounts import Accounts
    from meterproxy.store.members import Members

    organization_id = (await Accounts(session.pool).read(account_id)).organization_id
    return await Members(session.pool).list(organization_id, after, limit)


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


_subject_option = click.option("--subject", required=True, help="What the issuer calls him: `sub` of its tokens.")
_issuer_option = click.option("--issuer", help="The issuer's address; openid.issuer of the configuration without it.")


@command.command()
@click.argument("user_id", type=click.UUID, metavar="ID")
@_subject_option
@_issuer_option
@click.option("--forget-password", is_flag=True, help="Whoever signs in to it by password, or has, is out.")
@invoked
def link(invocation: Invocation, user_id: UUID, subject: str, issuer: str | None, forget_password: bool) -> None:
    """Let whom an OpenID provider calls so be this user, such as the owner of an address that another registered."""
    named = _issuer(invocation, issuer)
    _show_identities(
        invocation, lambda identities: identities.link(user_id, named, subject, forget_password=forget_password)
    )


@command.command()
@click.argument("user_id", type=click.UUID, metavar="ID")
@_subject_option
@_issuer_option
@invoked
def unlink(invocation: Invocation, user_id: UUID, subject: str, issuer: str | None) -> None:
    """Let whom an OpenID provider calls so be this user no more; all his log-ins end."""
    named = _issuer(invocation, issuer)
    _show_identities(invocation, lambda identities: identities.unlink(user_id, named, subject))


@command.command("identities")
@click.argument("user_id", type=click.UUID, metavar="ID")
@invoked
def identities_(invocation: Invocation, user_id: UUID) -> None:
    """List what OpenID providers call a user."""
    _show_identities(invocation, lambda identities: identities.of(user_id))


def _issuer(invocation: Invocation, named: str | None) -> str:
    issuer = named or invocation.load().openid.issuer
    if not issuer:
        raise click.UsageError("--issuer is needed: openid.issuer is not set")
    return issuer


def _show_identities(invocation: Invocation, work: "Callable[[Identities], Awaitable[Sequence[IdentityRow]]]") -> None:
    """Do something with what issuers call a user, and show what they call him then."""

    async def worked(session: "Session") -> "Sequence[IdentityRow]":
        from meterproxy.store.accounts import Accounts
        from meterproxy.store.actor import acting_as
        from meterproxy.store.identities import Identities

        with acting_as(actor()):
            return await work(Identities(session.pool, Accounts(session.pool), session.config.registration))

    invocation.show_all(invocation.with_session(worked), ("issuer", "subject", "created_at"))
