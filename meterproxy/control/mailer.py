"""The mailer: letters to people, handed in at an SMTP server beside the requests that they are about.

Rules
-----
- Nobody waits for a letter, and from how long an answer takes nobody learns whether one was written: it is written, by
  whoever knows how, when its turn has come.
- At most `MOST_WAITING` letters wait, in memory: what they say can be asked for again. Each is tried
  `len(PAUSES_SECONDS) + 1` times. Whatever is wrong with one, the others go out.
- Each letter ends once: it was sent, it failed, or it was dropped, also where the worker ends before its turn.
- Logs tell that a letter failed and why, never its address or what it says.
"""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Awaitable, Callable
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate, make_msgid
from ipaddress import ip_address
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import aiosmtplib

from meterproxy.config import MailTerms
from meterproxy.core.direction import in_its_direction
from meterproxy.core.mail_address import mailbox
from meterproxy.errors import StoreUnavailable

MOST_WAITING: Final = 200
PAUSES_SECONDS: Final = (2.0, 20.0, 120.0)
"""Before it is tried again."""
SENDERS: Final = 4
"""So many letters are on their way at a time, so that one that has to be tried again keeps few others waiting."""

Write = Callable[[], Awaitable[EmailMessage | None]]
"""Writes a letter when its turn has come; None: there is nothing to say after all."""
Undo = Callable[[], Awaitable[None]]
"""Takes back what was done for a letter that nobody has got; where it raises, that stays."""


async def _nothing() -> None:
    """Nothing was done for it."""


class Posted(NamedTuple):
    """A letter that waits to be written."""

    write: Write
    undo: Undo


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
        self._waiting: asyncio.Queue[Posted] = asyncio.Queue(MOST_WAITING)
        self._unended = 0
        self._ending = False
        self._tls = None if terms.tls == "none" else _trusting(terms.tls_ca_file)
        self._own_name = _own_name(public_url)

    def post(self, write: Write, undo: Undo = _nothing) -> bool:
        """Have a letter written and sent; False where too many wait already, or the end has begun."""
        if self._waiting.full() or self._ending:
            self._dropped(1, "the worker ends" if self._ending else f"{MOST_WAITING} wait already")
            return False
        self._waiting.put_nowait(Posted(write, undo))
        self._unended += 1
        return True

    async def keep_sent(self) -> None:
        """Write and send letters for ever; those that are left where that ends after `finish` are dropped."""
        try:
            async with asyncio.TaskGroup() as senders:
                for _ in range(SENDERS):
                    senders.create_task(self._keep_sent())
        finally:
            if self._ending and self._unended:
                self._dropped(self._unended, "the worker ends")

    async def finish(self, seconds: float) -> None:
        """Take no more letters, and wait until those there are have ended, so long at most; the others still may."""
        self._ending = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._waiting.join()

    def letter(self, to: str, subject: str, text: str) -> EmailMessage:
        """A letter in plain text, in which no name turns round what stands beside it.

        Raises:
            ValueError: nothing can be sent to such an address.
        """
        box = mailbox(to)
        if box is None:
            raise ValueError("nothing can be sent to such an address")
        message = EmailMessage(policy=SMTP)
        message["From"] = self._terms.sender or ""
        message["To"] = Address(username=box.name, domain=box.domain)
        message["Subject"] = " ".join(in_its_direction(subject).split())
        message["Date"] = formatdate(usegmt=True)
        message["Message-ID"] = make_msgid(domain=message["From"].addresses[0].domain)
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's absence is told to us
        message.set_content(in_its_direction(text))
        return message

    async def _keep_sent(self) -> None:
        while True:
            write, undo = await self._waiting.get()
            try:
                letter = await self._written(write)
                if letter is not None:
                    await self._delivered(letter)
            except Exception as error:  # noqa: BLE001  else one letter would end those beside it, too
                if not _may_have_arrived(error):
                    await self._undone(undo)
                self._failed(error)
            self._unended -= 1
            self._waiting.task_done()

    @staticmethod
    async def _undone(undo: Undo) -> None:
        try:
            await undo()
        except Exception as error:  # noqa: BLE001  the same
            _log.error("what was done for a letter could not be taken back: %s", _reason(error))

    async def _written(self, write: Write) -> EmailMessage | None:
        for pause in PAUSES_SECONDS:
            try:
                return await write()
            except StoreUnavailable:
                await asyncio.sleep(pause)
        return await write()

    async def _delivered(self, letter: EmailMessage) -> None:
        for pause in PAUSES_SECONDS:
            try:
                await self._send(letter)
            except (aiosmtplib.SMTPException, OSError) as error:
                if _is_final(error):
                    raise
                await asyncio.sleep(pause)
            else:
                break
        else:
            await self._send(letter)
        self._count("sent")

    async def _send(self, letter: EmailMessage) -> None:
        terms = self._terms
        await aiosmtplib.send(
            letter,
            hostname=terms.host,
            port=terms.port_used,
            username=terms.user,
            password=None if terms.password is None else terms.password.get_secret_value(),
            local_hostname=self._own_name,
            timeout=terms.timeout_seconds,
            use_tls=terms.tls == "tls",
            start_tls=terms.tls == "starttls",
            tls_context=self._tls,
        )

    def _dropped(self, letters: int, why: str) -> None:
        for _ in range(letters):
            self._count("dropped")
        _log.error("letters were dropped: %s", why, extra={"letters": letters})

    def _failed(self, error: Exception) -> None:
        self._count("failed")
        _log.error("a letter could not be sent: %s", _reason(error))


def _trusting(ca_file: Path | None) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))


def _own_name(public_url: str) -> str:
    """What we call ourselves to a mail server (RFC 5321, section 4.1.3), without asking anybody what our name is."""
    host = urlsplit(public_url).hostname or "localhost"
    try:
        address = ip_address(host)
    except ValueError:
        return host if host.isascii() else host.encode("idna").decode()
    return f"[{'IPv6:' if address.version == 6 else ''}{address}]"


def _is_final(error: Exception) -> bool:
    """Whether it would be the same another time: a server's refusals from 500 on are, and what it cannot do."""
    if isinstance(error, aiosmtplib.SMTPNotSupported):
        return True
    if isinstance(error, aiosmtplib.SMTPRecipientsRefused):
        return all(one.code >= 500 for one in error.recipients)
    return isinstance(error, aiosmtplib.SMTPResponseException) and error.code >= 500


def _may_have_arrived(error: Exception) -> bool:
    """Whether the server may have taken a letter without saying so."""
    unanswered = isinstance(error, aiosmtplib.SMTPServerDisconnected | aiosmtplib.SMTPTimeoutError)
    return unanswered and not isinstance(error, aiosmtplib.SMTPConnectError)


def _reason(error: Exception) -> str:
    """What went wrong, without an address: servers repeat it in what they say."""
    if isinstance(error, aiosmtplib.SMTPRecipientsRefused):
        return f"the server refuses the recipient ({', '.join(str(one.code) for one in error.recipients)})"
    if isinstance(error, aiosmtplib.SMTPResponseException):
        return f"{type(error).__name__} ({error.code})"
    if isinstance(error, aiosmtplib.SMTPConnectError | aiosmtplib.SMTPTimeoutError):
        return error.message  # the server has not been told an address yet
    return type(error).__name__
