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


async def reset_letter(mailer: Mailer, sign_in: SignIn, email: str) -> EmailMessage | None:
    """How to set a forgotten password; None where nobody is to have one (see `SignIn.allow_mailed_reset`).

    Raises:
        StoreUnavailable.
    """
    allowed = await sign_in.allow_mailed_reset(email)
    if allowed is None:
        return None
    address, secret = allowed
    text = f"""\
Somebody, probably you, has asked for a new password for your account.

Set it here, within {MAILED_RESET_SECONDS // 60} minutes:

{mailer.public_url}/reset?token={secret}

The link works once. If you did not ask for it, do nothing: your password stays as it is.
"""
    return mailer.letter(address, "Set your password", text)


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
