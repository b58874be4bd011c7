"""Logged usage: what did not pass here, and is told us by whoever used it."""

from typing import Final
from uuid import UUID

import msgspec

from meterproxy.core.usage import Usage

LOGGED: Final = "logged"
"""The operation of its rows, as key policies and limits name it."""


class LoggedUsage(msgspec.Struct, frozen=True, kw_only=True):
    """One exchange that went another way.

    `key_digest` is of the key that pays; `provider` is one of the configuration, or a section of the price data.
    Without `charged` the books keep what it was, and nothing is paid.
    """

    request_id: UUID
    occurred_us: int
    key_digest: bytes
    provider: str
    model: str
    usage: Usage
    charged: bool = True
    latency_us: int = 0
    conversation: str | None = None
    tags: tuple[tuple[str, str], ...] = ()
