"""Delivery: what both ways of passing an answer on, whole and as a stream, work with."""

from typing import Final

import msgspec

from meterproxy.errors import ApiError, Case
from meterproxy.proxy.capture import OpenHold
from meterproxy.proxy.client import Client
from meterproxy.proxy.counting import Counting
from meterproxy.proxy.decode import Decoder
from meterproxy.proxy.forward import Forwarded
from meterproxy.proxy.settings import ExchangeSettings
from meterproxy.proxy.texts import TextPool
from meterproxy.proxy.usage_shapes import Ceiling

JOURNAL_FAILED: Final = "The answer could not be recorded, so it cannot be delivered."


class Delivery(msgspec.Struct, eq=False):
    """One provider's answer on its way to the client.

    Args:
        headers: what the client gets, but for what only the ending knows.
        ceiling: the most that the answer can honestly have used.
        hidden_output: whether the model thinks before it speaks, so that what was seen is not what is billed.
    """

    client: Client
    forwarded: Forwarded
    headers: list[tuple[bytes, bytes]]
    decoder: Decoder | None
    hold: OpenHold
    counting: Counting
    operation: str
    ceiling: Ceiling
    hidden_output: bool
    settings: ExchangeSettings
    pool: TextPool

    @property
    def status(self) -> int:
        return self.forwarded.answer.status


def not_recorded() -> ApiError:
    """What a client hears whose answer could not be written to the journal; asking again would be charged again."""
    return ApiError(Case.INTERNAL, JOURNAL_FAILED, headers={"x-should-retry": "false"})
