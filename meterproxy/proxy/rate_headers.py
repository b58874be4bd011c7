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


def rate_headers(rates: Rates | None) -> list[Header]:
    """The `x-ratelimit-*` headers of one answer."""
    if rates is None:
        return []
    headers: list[Header] = []
    if rates.requests is not None:
        headers += _told(b"requests", rates.requests)
    if rates.tokens is not None:
        headers += _told(b"tokens", rates.tokens)
    return headers


def _told(measure: bytes, rate: Rate) -> list[Header]:
    headers = [
        (b"x-ratelimit-limit-" + measure, b"%d" % rate.limit),
        (b"x-ratelimit-remaining-" + measure, b"%d" % rate.remaining),
    ]
    if rate.reset_us < NEVER_US:
        headers.append((b"x-ratelimit-reset-" + measure, duration(rate.reset_us).encode()))
    return headers


def duration(us: int) -> str:
    """A time to wait, rounded up to milliseconds."""
    ms = max(-(-us // 1000), 0)
    if ms < 1000:
        return f"{ms}ms"
    minutes, ms = divmod(ms, 60_000)
    hours, minutes = divmod(minutes, 60)
    seconds = f"{ms / 1000:.3f}".rstrip("0").rstrip(".")
    return f"{f'{hours}h' if hours else ''}{f'{minutes}m' if hours or minutes else ''}{seconds}s"
