"""Delivery: what both ways of passing an answer on, whole and as a stream, work with."""

from typing import Final

import msgspec

from meterproxy.core.resource import RESPONSE
from meterproxy.errors import ApiError, Case
from meterproxy.proxy.adaptive import Extension
from meterproxy.proxy.capture import OpenHold
from meterproxy.proxy.claims import Claims
from meterproxy.proxy.client import Client
from meterproxy.proxy.counting import Counting
from meterproxy.proxy.decode import Decoder
from meterproxy.proxy.forward import Forwarded
from meterproxy.proxy.ports import DurableHolds
from meterproxy.proxy.settings import ExchangeSettings
from meterproxy.proxy.texts import TextPool
from meterproxy.proxy.turns import Turns
from meterproxy.proxy.usage_shapes import Ceiling

JOURNAL_FAILED: Final = "The answer could not be recorded, so it cannot be delivered."


class Delivery(msgspec.Struct, eq=False):
    """One provider's answer on its way to the client.

    Args:
        headers: what the client gets, but for what only the ending knows.
        ceiling: the most that the answer can honestly have used.
        hidden_output: whether the model thinks before it speaks, so that what was seen is not what is billed.
        claims: writes down what the answer brings, where its client may mention that later.
        durable: where the hold goes if the work goes on in the background.
        turns: where large answers are read.
        background: whether the request asked for that.
        extension: holds more as the answer grows, where not all of its bound is held.
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
    turns: Turns
    claims: Claims | None = None
    durable: DurableHolds | None = None
    background: bool = False
    extension: Extension | None = None

    def defer(self, response_id: str) -> None:
        """Let the hold wait for the end of a response that goes on in the background. Raises JournalFailed."""
        assert self.claims is not None
        assert self.durable is not None
        self.hold.defer(self.durable, self.claims.resource(RESPONSE, response_id))

    @property
    def status(self) -> int:
        return self.forwarded.answer.status


def not_recorded() -> ApiError:
    """What a client hears whose answer could not be written to the journal; asking again would be charged again."""
    return ApiError(Case.INTERNAL, JOURNAL_FAILED, headers={"x-should-retry": "false"})
