"""The mailer: letters to people, handed in at an SMTP server beside the requests that they are about.

Rules
-----
- Nobody waits for a letter, and from how long an answer takes nobody learns whether one was written: it is written, by
  whoever knows how, when its turn has come.
- At most `MOST_WAITING` letters wait, in memory: what they say can be asked for again. Each is tried
  `len(PAUSES_SECONDS) + 1` times.
- Logs tell that a letter failed and why, never its address or what it says.
"""

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate, make_msgid
from pathlib import Path
from typing import Final

import aiosmtplib

from meterproxy.config import MailTerms
from meterproxy.core.direction import in_its_direction
from meterproxy.errors import ApiError, StoreUnavailable

MOST_WAITING: Final = 200
PAUSES_SECONDS: Final = (2.0, 20.0, 120.0)
"""Before it is tried again."""
SENDERS: Final = 4
"""So many letters are on their way at a time, so that one that has to be tried again keeps few others waiting."""

Write = Callable[[], Awaitable[EmailMessage | None]]
"""Writes a letter when its turn has come; None: there is nothing to say after all."""

_log: Final = logging.getLogger(__name__)


class Mailer:
    """Takes letters and hands them in.

    Args:
        terms: with a host.
        public_url: where people reach the service; links begin with it, whatever a request says of itself.
        count: told of each letter's end: `sent`, `failed` or `dropped`.
    """

    def __init__(self, terms: MailTerms, public_url: str, count: Callable[[str], None]) -> None:
        self.public_url = public_url.rstrip("/")
        self._terms = terms
        self._count = count
        self._waiting: asyncio.Queue[Write] = asyncio.Queue(MOST_WAITING)
        self._tls = None if terms.tls == "none" else _trusting(terms.tls_ca_file)

    def post(self, write: Write) -> bool:
        """Have a letter written and sent; False where too many wait already."""
        try:
            self._waiting.put_nowait(write)
        except asyncio.QueueFull:
            self._count("dropped")
            _log.error("a letter was dropped: %d wait already", MOST_WAITING)
            return False
        return True

    async def keep_sent(self) -> None:
        """Write and send letters for ever."""
        async with asyncio.TaskGroup() as senders:
            for _ in range(SENDERS):
                senders.create_task(self._keep_sent())

    def letter(self, to: str, subject: str, text: str) -> EmailMessage:
        """A letter in plain text, in which no name turns round what stands beside it.

        Raises:
            ValueError: nothing can be sent to such an address.
        """
        message = EmailMessage(policy=SMTP)
        message["From"] = self._terms.sender or ""
        message["To"] = Address(addr_spec=to)
        message["Subject"] = " ".join(in_its_direction(subject).split())
        message["Date"] = formatdate(usegmt=True)
        message["Message-ID"] = make_msgid(domain=message["From"].addresses[0].domain)
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's absence is told to us
        message.set_content(in_its_direction(text))
        return message

    async def _keep_sent(self) -> None:
        while True:
            letter = await self._written(await self._waiting.get())
            if letter is not None:
                await self._delivered(letter)

    async def _written(self, write: Write) -> EmailMessage | None:
        for pause in (*PAUSES_SECONDS, None):
            try:
                return await write()
            except StoreUnavailable as error:
                if pause is None:
                    self._failed(error)
                else:
                    await asyncio.sleep(pause)
            except (ApiError, ValueError) as error:
                self._failed(error)
                break
        return None

    async def _delivered(self, letter: EmailMessage) -> None:
        for pause in (*PAUSES_SECONDS, None):
            try:
                await self._send(letter)
            except (aiosmtplib.SMTPException, OSError) as error:
                if pause is None or _is_final(error):
                    self._failed(error)
                    return
                await asyncio.sleep(pause)
            else:
                self._count("sent")
                return

    async def _send(self, letter: EmailMessage) -> None:
        terms = self._terms
        await aiosmtplib.send(
            letter,
            hostname=terms.host,
            port=terms.port_used,
            username=terms.user,
            password=None if terms.password is None else terms.password.get_secret_value(),
            timeout=terms.timeout_seconds,
            use_tls=terms.tls == "tls",
            start_tls=terms.tls == "starttls",
            tls_context=self._tls,
        )

    def _failed(self, error: Exception) -> None:
        self._count("failed")
        _log.error("a letter could not be sent: %s", _reason(error))


def _trusting(ca_file: Path | None) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))


def _is_final(error: Exception) -> bool:
    """Whether it would be the same another time: a server's refusals from 500 on are."""
    if isinstance(error, aiosmtplib.SMTPRecipientsRefused):
        return all(one.code >= 500 for one in error.recipients)
    return isinstance(error, aiosmtplib.SMTPResponseException) and error.code >= 500


def _reason(error: Exception) -> str:
    """What went wrong, without an address: servers repeat it in what they say."""
    if isinstance(error, aiosmtplib.SMTPRecipientsRefused):
        return f"the server refuses the recipient ({', '.join(str(one.code) for one in error.recipients)})"
    if isinstance(error, aiosmtplib.SMTPResponseException):
        return f"{type(error).__name__} ({error.code})"
    if isinstance(error, aiosmtplib.SMTPConnectError | aiosmtplib.SMTPTimeoutError):
        return error.message  # the server has not been told an address yet
    return type(error).__name__
