"""Letters: what people are told by mail."""

from email.message import EmailMessage
from uuid import UUID

from meterproxy.control.mailer import Mailer
from meterproxy.control.sign_in import MAILED_RESET_SECONDS, SignIn
from meterproxy.store.accounts import Accounts
from meterproxy.store.members import InvitationRow


async def reset_letter(mailer: Mailer, sign_in: SignIn, email: str) -> EmailMessage | None:
    """How to set a forgotten password; None where nobody signs in by this address and a password.

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

    Whoever may register can invite, and calls his organization what he likes: its name stands in the text alone.
    """
    organization = " ".join((await accounts.read(account_id)).organization.split())
    registers = f"Otherwise make one here:\n\n{mailer.public_url}/register?token={secret}"
    without_one = "Otherwise ask the operator of this service for one first." if closed else registers
    text = f"""\
You are invited to join the organization "{organization}".

If you have an account already, join here:

{mailer.public_url}/invitation?token={secret}

{without_one}

This works for this e-mail address only. If you do not know the organization, do nothing.
"""
    return mailer.letter(invitation.email, "You are invited to an organization", text)
