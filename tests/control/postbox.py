"""A mail server that keeps what it is given, and refuses or is silent where a test wants that."""

import asyncio
import ssl
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from bench.certificates import Certificates

USER, PASSWORD = "meter", "p@ss word"


class Postbox:
    """What `aiosmtpd` asks when a letter comes, and what has come.

    Attributes:
        replies: given to the next letters instead of taking them, e.g. `451 later`.
        secure: of each letter, whether it came by TLS.
        callers: what those called themselves who brought letters.
        taking: letters are taken while it is set.
    """

    def __init__(self) -> None:
        self.letters: asyncio.Queue[EmailMessage] = asyncio.Queue()
        self.replies: list[str] = []
        self.attempts = 0
        self.recipients: list[str] = []
        self.secure: list[bool] = []
        self.callers: list[str | None] = []
        self.taking = asyncio.Event()
        self.taking.set()
        self.port = 0

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.attempts += 1
        await self.taking.wait()
        if self.replies:
            return self.replies.pop(0)
        message = message_from_bytes(envelope.original_content or b"", policy=default)
        assert isinstance(message, EmailMessage)
        self.recipients += envelope.rcpt_tos
        self.callers.append(session.host_name)
        self.secure.append(server.transport.get_extra_info("ssl_object") is not None)
        self.letters.put_nowait(message)
        return "250 taken"


def _knows(_server: Any, _session: Any, _envelope: Any, mechanism: str, given: Any) -> AuthResult:
    right = isinstance(given, LoginPassword) and (given.login, given.password) == (USER.encode(), PASSWORD.encode())
    return AuthResult(success=right and mechanism in {"LOGIN", "PLAIN"}, handled=False)  # the server is to say so


@asynccontextmanager
async def postbox(
    certificates: Certificates | None = None, tls: str = "none", *, asks_who: bool = False
) -> AsyncIterator[Postbox]:
    """A server on a free port; by TLS from the first byte, or when the client asks for it."""
    made = Postbox()
    context = None
    if certificates is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificates.server, certificates.server_key)
    starting = context if tls == "starttls" else None

    def protocol() -> SMTP:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TLS from the first byte on is not known to it
            return SMTP(
                made,
                enable_SMTPUTF8=True,
                tls_context=starting,
                require_starttls=starting is not None,
                authenticator=_knows if asks_who else None,
                auth_required=asks_who,
                auth_require_tls=tls == "starttls",
            )

    listening = context if tls == "tls" else None
    async with serving(protocol, listening) as port:
        made.port = port
        yield made


@asynccontextmanager
async def serving(
    protocol: Callable[[], asyncio.BaseProtocol], context: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """A server of this protocol on the loopback address; its port. Nothing of it is left afterwards."""
    open_: list[asyncio.BaseTransport] = []

    def made() -> asyncio.BaseProtocol:
        one = protocol()
        connected = one.connection_made

        def connection_made(transport: asyncio.BaseTransport) -> None:
            open_.append(transport)
            connected(transport)

        one.connection_made = connection_made  # type: ignore[method-assign]
        return one

    server = await asyncio.get_running_loop().create_server(made, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for transport in open_:
            transport.abort()
