"""Rate headers: how a client is told of its rate limits, in OpenAI's words.

Rules
-----
- A reset is written as OpenAI does: `120ms`, `7.66s`, `6m0s`, `13h20m0s`; never sooner than the window begins anew.
- What never begins anew has no reset.
"""

from typing import Final

from meterproxy.core.hold import Rate, Rates

Header = tuple[bytes, bytes]

NEVER_US: Final = 10 * 366 * 86_400 * 1_000_000
"""A window that ends later than this has no end."""


_REQUESTS: Final = (
    b"x-ratelimit-limit-requests",
    b"x-ratelimit-remaining-requests",
    b"x-ratelimit-reset-requests",
)
_TOKENS: Final = (b"x-ratelimit-limit-tokens", b"x-ratelimit-remaining-tokens", b"x-ratelimit-reset-tokens")


def rate_headers(rates: Rates | None) -> list[Header]:
    """The `x-ratelimit-*` headers of one answer."""
    headers: list[Header] = []
    if rates is not None:
        if rates.requests is not None:
            _tell(headers, _REQUESTS, rates.requests)
        if rates.tokens is not None:
            _tell(headers, _TOKENS, rates.tokens)
    return headers


def _tell(headers: list[Header], names: tuple[bytes, bytes, bytes], rate: Rate) -> None:
    headers.append((names[0], b"%d" % rate.limit))
    headers.append((names[1], b"%d" % rate.remaining))
    if rate.reset_us < NEVER_US:
        headers.append((names[2], duration(rate.reset_us)))


def duration(us: int) -> bytes:
    """A time to wait, rounded up: to milliseconds below a minute, to seconds above."""
    ms = -(-us // 1000)
    if ms < 1000:
        return b"%dms" % max(ms, 0)
    if ms < 60_000:
        return b"%gs" % (ms / 1000)
    minutes, seconds = divmod(-(-ms // 1000), 60)
    if minutes < 60:
        return b"%dm%ds" % (minutes, seconds)
    return b"%dh%dm%ds" % (*divmod(minutes, 60), seconds)
