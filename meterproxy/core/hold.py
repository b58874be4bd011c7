"""Holds: what is asked of the ledger for one exchange, and what it answers."""

from typing import NamedTuple
from uuid import UUID

import msgspec

from meterproxy.core.bound import Bound
from meterproxy.core.key import KeyEntry
from meterproxy.core.price import Price
from meterproxy.core.record import Subject
from meterproxy.core.resource import Resource


class HoldRequest(msgspec.Struct, frozen=True):
    """What `authorize` asks the ledger to hold for one exchange."""

    request_id: UUID
    occurred_us: int
    key: KeyEntry
    operation: str
    provider: str
    model: str
    price: Price
    markup_ppm: int
    bound: Bound
    hold_nanos: int
    stream: bool
    conversation: str | None = None
    tags: tuple[tuple[str, str], ...] = ()
    input_estimate: int | None = None
    """About how many tokens go in: what is charged should this worker die before it knows better."""
    exposed_nanos: int = 0
    """What the bound comes to beyond `hold_nanos`, which is drawn from the account's exposure instead."""
    accepted_us: int = 0
    """Whose windows it draws from; 0: those of `occurred_us`."""


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """What a capture came to, for the answer's headers; `available_nanos` is the account's rest as known here."""

    cost_nanos: int
    amount_nanos: int
    available_nanos: int | None


class Rest(msgspec.Struct, frozen=True, gc=False):
    """What is left for new holds: of money, and of tokens where they are limited."""

    nanos: int
    tokens: int | None = None


class Rate(NamedTuple):
    """The tightest limit of one measure on a request's path: its cap, what is left of it, and when it counts anew."""

    limit: int
    remaining: int
    reset_us: int


class Rates(NamedTuple):
    """What a client may be told of the requests and tokens that it has left; `reset_us` is how long that takes."""

    requests: Rate | None
    tokens: Rate | None


class Hold(msgspec.Struct, eq=False):
    """A hold that was placed; the ledger keeps more of it than others need to know."""

    subject: Subject
    price: Price


class DurableHold(Hold, eq=False):
    """A hold that outlived its exchange: it ends with what runs at the provider, on whichever worker hears of that."""

    resource: Resource
    input_estimate: int | None = None


class DueHold(msgspec.Struct, frozen=True):
    """A durable hold whose provider is to be asked now; `age_seconds` since its request was accepted."""

    hold: DurableHold
    age_seconds: float
