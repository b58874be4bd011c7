"""What can go wrong between us and a provider, told apart by what the books must assume.

Rules:
- `sent` says whether the provider may have seen the request: False only where no byte of any attempt left us.
- `reason` is a short constant text, fit for a metric's label; the message is for logs and carries no secrets.
"""

from meterproxy.errors import MeterproxyError


class UpstreamError(MeterproxyError):
    """The root of what `Upstream.send` and `UpstreamAnswer.read` raise."""

    sent = True

    def __init__(self, reason: str, message: str | None = None) -> None:
        super().__init__(message or reason)
        self.reason = reason

    def again(self) -> "UpstreamError":
        """The same to be raised by somebody who keeps this one: what was raised has the frames that it went through."""
        return type(self)(self.reason, str(self))


class UpstreamUnreachable(UpstreamError):
    """No connection could be had (name, route, proxy, TLS); nothing was sent unless an earlier attempt was."""

    sent = False


class UpstreamBusy(UpstreamError):
    """Every connection is in use and the line for one is full or did not move; nothing was sent."""

    sent = False


class UpstreamTimeout(UpstreamError):
    """The request was sent, but no answer's head came within `first_byte_seconds`."""


class UpstreamBroken(UpstreamError):
    """The request was sent, but the connection ended or talked garbage before the answer's end."""


class UpstreamSilent(UpstreamBroken):
    """The connection ended before any byte of an answer; on a reused connection the request may be sent once more."""


class ReadInterrupted(Exception):
    """Somebody has called `UpstreamAnswer.interrupt`; the answer itself is as it was."""
