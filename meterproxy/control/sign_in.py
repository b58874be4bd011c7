"""Signing in: from a name and a password to a log-in, and on from there.

Rules
-----
- Failures are counted for whom and from where; beyond a few, each doubles the wait. Whoever must wait is told so before
  his password is looked at, so that guessing goes no faster from many addresses. An attempt counts as failed from its
  beginning until it is known to be right, so that it goes no faster all at once either.
- The answer for a wrong password and for an unknown user is the same, and takes as long. Registering tells that an
  address is taken, so it goes as slowly as guessing does: from one address, or by one invitation.
- The secret that renews a log-in works once. Where a used one comes again, two have it, and one of them should not: the
  log-in ends. Ending a log-in ends its tokens at once: each request looks it up.
"""

import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Literal
from uuid import UUID

from meterproxy.control.passwords import Passwords
from meterproxy.control.tokens import ACCESS_SECONDS, Claim, Tokens
from meterproxy.core.mail_address import mailbox
from meterproxy.errors import ApiError, Case
from meterproxy.store.actor import acting_as
from meterproxy.store.ids import new_id
from meterproxy.store.members import Members
from meterproxy.store.people import FREE_FAILURES, People

LOGIN_SECONDS: Final = 30 * 86_400
"""How long a log-in lasts that nobody renews."""
RENEWED_AT_ONCE_SECONDS: Final = 30
"""Within so long, programs of one person may have renewed a log-in by the same secret."""
RESET_SECONDS: Final = 86_400
MAILED_RESET_SECONDS: Final = 3600
FREE_FAILURES_OF_AN_ADDRESS: Final = 50
MOST_MAILED_RESETS: Final = 3
"""Links of one person that work at a time: beyond that he is sent none, as he has some."""
FREE_INVITATIONS: Final = 20
FREE_INVITATIONS_TO_ONE: Final = 4
LONGEST_PAUSE_SECONDS: Final = 6 * 3600.0
"""Between invitations that are mailed, where they have come to be many."""
FREE_REGISTRATIONS_OF_AN_ADDRESS: Final = 50
"""Many people may share one address."""


@dataclass(frozen=True, slots=True)
class SignedIn:
    """What somebody gets who has signed in: a token for requests, and the secret for the next one."""

    access_token: str
    renewal_token: str
    claim: Claim
    expires_in: int = ACCESS_SECONDS


Registration = Literal["open", "invitation", "closed"]


class SignIn:
    """Registers people and signs them in and out."""

    def __init__(
        self,
        people: People,
        members: Members,
        passwords: Passwords,
        tokens: Tokens,
        registration: Registration,
    ) -> None:
        self._people = people
        self._members = members
        self._passwords = passwords
        self._tokens = tokens
        self._registration = registration

    @property
    def registration(self) -> Registration:
        """Who may become a user by registering."""
        return self._registration

    async def register(self, name: str, email: str, password: str, address: str, invitation: str | None = None) -> UUID:
        """Make a user who owns an organization of his own, and belongs to the one that has invited him.

        Raises:
            ApiError: PERMISSION_DENIED (closed, or an invitation is needed), CONFLICT (e-mail taken), SIGN_IN_SLOWED,
                OVERLOADED.
        """
        invited = invitation is not None and await self._members.is_invited(_digest(invitation), email)
        if self._registration == "closed" or (self._registration == "invitation" and not invited):
            text = "closed" if self._registration == "closed" else "by invitation only, sent to this e-mail address"
            raise ApiError(Case.PERMISSION_DENIED, f"Registration is {text}.")
        attempt = {f"registrations {address}": FREE_REGISTRATIONS_OF_AN_ADDRESS}
        if invited:
            attempt = {f"registrations by {invitation}": FREE_FAILURES}
        async with self._attempt(attempt):
            hashed = await self._passwords.hash(password)
        user_id = await self._people.register(name, email, hashed)
        if invitation is not None and invited:
            with acting_as(f"user {user_id}"):
                await self._members.join(_digest(invitation), user_id)
        return user_id

    async def log_in(self, email: str, password: str, address: str) -> SignedIn:
        """Sign somebody in. Raises ApiError WRONG_PASSWORD, SIGN_IN_SLOWED, OVERLOADED."""
        whom, whence = f"email {email.lower()}", f"address {address}"
        async with self._attempt({whom: FREE_FAILURES, whence: FREE_FAILURES_OF_AN_ADDRESS}):
            found = await self._people.find(email)
            right = await self._passwords.check(password, found.password_hash if found else None)
        login_id = new_id()
        secret = self._tokens.renewal(login_id)
        if not (right and found and await self._people.begin_login(login_id, found, _digest(secret), LOGIN_SECONDS)):
            raise ApiError(Case.WRONG_PASSWORD, "The e-mail or the password is wrong.")
        await self._people.forget_failures(whom)
        await self._people.undo_attempts([whence])
        return self._signed_in(Claim(found.user_id, login_id), secret)

    async def log_in_known(self, user_id: UUID) -> SignedIn:
        """Sign in whom somebody else vouches for. Raises ApiError PERMISSION_DENIED where he is suspended."""
        login_id = new_id()
        secret = self._tokens.renewal(login_id)
        if not await self._people.begin_login_of(login_id, user_id, _digest(secret), LOGIN_SECONDS):
            raise ApiError(Case.PERMISSION_DENIED, "You may not sign in here.")
        return self._signed_in(Claim(user_id, login_id), secret)

    @asynccontextmanager
    async def attempt_from(self, address: str) -> AsyncIterator[None]:
        """Count what is refused in here as MALFORMED as a failure of this address. Raises ApiError SIGN_IN_SLOWED."""
        whence = {f"address {address}": FREE_FAILURES_OF_AN_ADDRESS}
        async with self._attempt(whence):
            pass
        try:
            yield
        except ApiError as error:
            if error.case is not Case.MALFORMED:
                await self._people.undo_attempts(whence)
            raise
        await self._people.undo_attempts(whence)

    async def renew(self, renewal_token: str) -> SignedIn:
        """Go on with a log-in. Raises ApiError NOT_SIGNED_IN where it is over, or this secret was used before."""
        login_id = self._tokens.renewed(renewal_token)
        secret = secrets.token_urlsafe(32) if login_id is None else self._tokens.renewal(login_id)
        renewed = await self._people.renew_login(_digest(renewal_token), _digest(secret), LOGIN_SECONDS)
        if renewed is None:
            if login_id is not None:
                await self._people.end_login_unless_renewed(login_id, LOGIN_SECONDS - RENEWED_AT_ONCE_SECONDS)
            raise ApiError(Case.NOT_SIGNED_IN, "This log-in is over. Sign in again.")
        return self._signed_in(Claim(*renewed), secret)

    async def change_password(self, user_id: UUID, login_id: UUID | None, old: str, new: str) -> str:
        """Change it; whose it is by his address. Raises ApiError WRONG_PASSWORD, SIGN_IN_SLOWED, OVERLOADED."""
        whom = f"user {user_id}"
        async with self._attempt({whom: FREE_FAILURES}):
            known = await self._people.password_hash(user_id)
            right = await self._passwords.check(old, known)
            hashed = await self._passwords.hash(new) if right else ""
        email = await self._people.change_password(user_id, known, hashed, login_id) if right else None
        if email is None:
            raise ApiError(Case.WRONG_PASSWORD, "The old password is wrong.", param="old_password")
        await self._people.forget_failures(whom)
        return email

    async def allow_reset(self, user_id: UUID) -> str:
        """As `allow_reset`."""
        return await allow_reset(self._people, user_id)

    async def forgotten(self, email: str, address: str) -> None:
        """Slow those down who ask for letters, each as an attempt that fails. Raises ApiError SIGN_IN_SLOWED."""
        whom, whence = f"forgotten by {email.lower()}", f"forgotten at {address}"
        async with self._attempt({whom: FREE_FAILURES, whence: FREE_FAILURES_OF_AN_ADDRESS}):
            pass

    async def may_mail_invitation(self, organization_id: UUID, email: str, address: str) -> bool:
        """Whether one more letter may go to somebody who has not asked for it."""
        free_letters = {
            f"invitations to {email.lower()}": FREE_INVITATIONS_TO_ONE,
            f"invitations of {organization_id}": FREE_INVITATIONS,
            f"invitations from {address}": FREE_FAILURES_OF_AN_ADDRESS,
        }
        return mailbox(email) is not None and await self._people.begin_attempt(free_letters, LONGEST_PAUSE_SECONDS) == 0

    async def allow_mailed_reset(self, email: str) -> tuple[str, str] | None:
        """The address and a secret of whoever signs in by this address and a password.

        None where nobody does, where no letter goes to such an address, or where he has links enough that work. The
        address is the one that he has registered. Raises StoreUnavailable.
        """
        if mailbox(email) is None:
            return None
        secret = secrets.token_urlsafe(32)
        with acting_as("mail"):
            known = await self._people.add_mailed_reset(
                email, _digest(secret), MAILED_RESET_SECONDS, MOST_MAILED_RESETS
            )
        return None if known is None else (known, secret)

    async def withdraw_reset(self, reset_token: str) -> None:
        """Let such a secret be worth nothing, as nobody has got it."""
        await self._people.end_reset(_digest(reset_token))

    async def may_mail_change(self, email: str) -> bool:
        """Whether one more letter may tell somebody that his password is another one."""
        letters = {f"changes of {email.lower()}": FREE_FAILURES}
        return mailbox(email) is not None and await self._people.begin_attempt(letters, LONGEST_PAUSE_SECONDS) == 0

    async def reset_password(self, reset_token: str, new: str, address: str) -> str:
        """Set a password by such a secret; whose, by his address.

        Raises:
            ApiError: NOT_SIGNED_IN, SIGN_IN_SLOWED, OVERLOADED.
        """
        whence = f"address {address}"
        async with self._attempt({whence: FREE_FAILURES_OF_AN_ADDRESS}):
            hashed = await self._passwords.hash(new)
        email = await self._people.set_password_by(_digest(reset_token), hashed)
        if email is None:
            raise ApiError(Case.NOT_SIGNED_IN, "This secret was used, is over, or never was one.", param="reset_token")
        await self._people.undo_attempts([whence])
        return email

    @asynccontextmanager
    async def _attempt(self, free_failures: Mapping[str, int]) -> AsyncIterator[None]:
        """Count an attempt as failed before it is looked at; one that nobody had time for counts for nothing."""
        seconds = await self._people.begin_attempt(free_failures)
        if seconds > 0:
            wait = str(int(seconds) + 1)
            text = f"Too many attempts have failed. Please try again in {wait} s."
            raise ApiError(Case.SIGN_IN_SLOWED, text, headers={"Retry-After": wait})
        try:
            yield
        except ApiError:
            await self._people.undo_attempts(free_failures)
            raise

    def _signed_in(self, claim: Claim, secret: str) -> SignedIn:
        return SignedIn(self._tokens.make(claim, int(time.time())), secret, claim)


async def allow_reset(people: People, user_id: UUID) -> str:
    """A secret with which somebody can set his password, once, within a day. Raises ApiError NOT_FOUND."""
    secret = secrets.token_urlsafe(32)
    await people.add_reset(user_id, _digest(secret), RESET_SECONDS)
    return secret


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
