"""Letters: what people are told by mail."""

import re
from email.message import EmailMessage
from typing import Final
from uuid import UUID

from meterproxy.control.mailer import Mailer
from meterproxy.control.sign_in import MAILED_RESET_SECONDS, SignIn
from meterproxy.store.accounts import Accounts
from meterproxy.store.members import InvitationRow

LONGEST_NAME: Final = 60
_LEADS_SOMEWHERE: Final = re.compile(r"\w[.。．｡]\w|@|//")
"""What mail programs make a link of."""


class ResetLetter:
    """How to set a forgotten password, for whoever signs in by this address; its methods raise StoreUnavailable."""

    def __init__(self, mailer: Mailer, sign_in: SignIn, email: str) -> None:
        self._mailer = mailer
        self._sign_in = sign_in
        self._email = email
        self._secret: str | None = None

    async def write(self) -> EmailMessage | None:
        """The letter; None where nobody is to have one (see `SignIn.allow_mailed_reset`)."""
        allowed = await self._sign_in.allow_mailed_reset(self._email)
        if allowed is None:
            return None
        address, self._secret = allowed
        return self._mailer.letter(address, "Set your password", self._text(self._secret))

    async def undo(self) -> None:
        """Let the link that nobody has got be none of those that he is taken to have."""
        if self._secret is not None:
            await self._sign_in.withdraw_reset(self._secret)

    def _text(self, secret: str) -> str:
        return f"""\
Somebody, probably you, has asked for a new password for your account.

Set it here, within {MAILED_RESET_SECONDS // 60} minutes:

{self._mailer.public_url}/reset?token={secret}

The link works once. If you did not ask for it, do nothing: your password stays as it is.
"""


async def changed_letter(mailer: Mailer, email: str) -> EmailMessage:
    """That somebody's password is another one: for whoever did not do it."""
    text = f"""\
The password of your account at {mailer.public_url} was set anew.

If you did that, all is well. If not, set another one here, and look at your keys then, which go on:

{mailer.public_url}/forgot
"""
    return mailer.letter(email, "Your password was set anew", text)


async def invitation_letter(
    mailer: Mailer, accounts: Accounts, account_id: UUID, invitation: InvitationRow, secret: str, *, closed: bool
) -> EmailMessage:
    """How to join an organization. Raises StoreUnavailable.

    Whoever may register can invite, and calls his organization what he likes: its name stands in the text alone, and
    only where it is no more than a name.
    """
    organization = _named((await accounts.read(account_id)).organization)
    registers = f"Otherwise make one here:\n\n{mailer.public_url}/register?token={secret}"
    without_one = "Otherwise ask the operator of this service for one first." if closed else registers
    text = f"""\
You are invited to join {organization}.

If you have an account already, join here:

{mailer.public_url}/invitation?token={secret}

{without_one}

This works for this e-mail address only. If you do not know the organization, do nothing.
"""
    return mailer.letter(invitation.email, "You are invited to an organization", text)


def _named(organization: str) -> str:
    """An organization by its name, on one line; without it where that would be a message of its own."""
    name = " ".join(organization.split())
    is_one = len(name) <= LONGEST_NAME and not _LEADS_SOMEWHERE.search(name)
    return f'the organization "{name}"' if is_one else "an organization"
