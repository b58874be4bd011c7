"""The records of the journal: what a worker writes down before it acts.

Rules
-----
- A record is *bookable* before it is written: text without NUL or lone surrogates and cut to length, counts `int` in
  0…2^53, amounts within `bigint`. `bookable_text` and `bookable_count` are the only way in.
- An ending carries all that settle needs; it is never joined with the place record.
- Records are versioned by appending members with defaults; members are never removed or given a new meaning.
"""

from collections.abc import Callable, Hashable
from contextlib import suppress
from functools import lru_cache
from typing import Final
from uuid import UUID

import msgspec

from meterproxy.core.path import Draw, Draws, read_draws, write_draws
from meterproxy.core.resource import Resource
from meterproxy.core.usage import MAX_COUNT, Usage

TEXT_LENGTH: Final = 256
"""Characters kept of any text that came from outside."""
TOOLS_KEPT: Final = 32
TAGS_KEPT: Final = 10
ENDING_BYTES: Final = 3584
"""The most that an ending may take in the journal beyond its subject; its room is kept when the hold is placed."""


class PriceRecord(msgspec.Struct, array_like=True, tag="price", frozen=True):
    """A price's full document, written before the first record of a segment that names it."""

    price_id: UUID
    document: bytes


class SessionRecord(msgspec.Struct, array_like=True, tag="session", frozen=True):
    """The worker session whose leases the following records draw from."""

    session_id: UUID
    started_us: int


class Subject(msgspec.Struct, array_like=True, frozen=True):
    """Who asked for what, fixed when the hold is placed; the columns that every row of an exchange shares."""

    request_id: UUID
    occurred_us: int
    account_id: UUID
    user_id: UUID
    key_id: UUID
    operation: str
    provider: str
    model: str
    price_id: UUID
    markup_ppm: int
    hold_nanos: int
    bound_input_tokens: int
    bound_output_tokens: int
    stream: bool
    draws: Draws
    conversation: str | None = None
    tags: tuple[tuple[str, str], ...] = ()


class PlaceRecord(msgspec.Struct, array_like=True, tag="place", frozen=True):
    """A hold was placed: the exchange may now be sent to the provider. `input_estimate` is in tokens."""

    subject: Subject
    input_estimate: int | None = None


class ProgressRecord(msgspec.Struct, array_like=True, tag="progress", frozen=True):
    """What a stream has delivered so far, for the case that its worker dies."""

    request_id: UUID
    usage: Usage


class ExtendRecord(msgspec.Struct, array_like=True, tag="extend", frozen=True):
    """A hold was extended: what it holds from now on, in all, so that the last of several says everything.

    `amounts` are those of the subject's draws, in their order.
    """

    request_id: UUID
    hold_nanos: int
    amounts: tuple[int, ...]


class Ending(msgspec.Struct, array_like=True, frozen=True):
    """What an exchange turned out to be: everything that is known only at its end.

    `status` is the HTTP status sent to the client; `usage` is None only where nothing was consumed (released).
    """

    outcome: str
    status: int
    usage_source: str
    usage: Usage
    served_model: str | None = None
    service_tier: str | None = None
    provider_request_id: str | None = None
    latency_us: int = 0
    first_byte_us: int | None = None
    tools: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    raw_usage: bytes | None = None
    """The provider's own usage object as JSON, kept where it was impossible or in part not understood."""


class EndRecord(msgspec.Struct, array_like=True, tag="end", frozen=True):
    """A hold ended: `captured` with an amount, `released`, or `recovered`.

    `amount_nanos` is all that is charged, overrun included; `cost_nanos` what the provider charges us.
    `overrun_nanos` is the part of the amount above the hold. `resource` is there where the hold was durable: the money
    comes out of its row instead of the leases.
    """

    how: str
    subject: Subject
    ending: Ending
    cost_nanos: int
    amount_nanos: int
    overrun_nanos: int
    resource: Resource | None = None


class DeferRecord(msgspec.Struct, array_like=True, tag="defer", frozen=True):
    """A hold outlives its exchange: it ends here as a durable one, under the resource that runs at the provider."""

    subject: Subject
    resource: Resource
    input_estimate: int | None = None


class OwnerRecord(msgspec.Struct, array_like=True, tag="owner", frozen=True):
    """An account has made a resource; written before its id reaches the client."""

    resource: Resource
    occurred_us: int


class ForgetRecord(msgspec.Struct, array_like=True, tag="forget", frozen=True):
    """A resource was deleted: nobody owns it any more, and no replay gives it back."""

    resource: Resource
    occurred_us: int


NoteRecord = DeferRecord | OwnerRecord | ForgetRecord
"""What is settled like an ending and is none: it charges nothing."""

Record = PriceRecord | SessionRecord | PlaceRecord | ProgressRecord | ExtendRecord | EndRecord | NoteRecord


def extended(subject: Subject, record: ExtendRecord) -> Subject:
    """The subject of a hold that was extended."""
    draws: list[Draw] = [
        draw._replace(amount=amount) for draw, amount in zip(subject.draws, record.amounts, strict=True)
    ]
    return msgspec.structs.replace(subject, hold_nanos=record.hold_nanos, draws=Draws.of(draws))


def identity(record: EndRecord | NoteRecord) -> Hashable:
    """What a record is about: of several with the same identity in one journal the first counts.

    A hold ends in its journal once, be it by becoming durable; a durable one has an ending of its own.
    """
    if isinstance(record, EndRecord):
        return record.subject.request_id if record.resource is None else ("durable", record.subject.request_id)
    return record.subject.request_id if isinstance(record, DeferRecord) else record


_encoder: Final = msgspec.msgpack.Encoder(uuid_format="bytes", enc_hook=write_draws)
_decoder: Final["msgspec.msgpack.Decoder[Record]"] = msgspec.msgpack.Decoder(Record, dec_hook=read_draws)
_subject_decoder: Final = msgspec.msgpack.Decoder(Subject, dec_hook=read_draws)


encode_payload: Final[Callable[[Record], bytes]] = _encoder.encode
"""A record as MessagePack, without the journal's frame."""


def decode_payload(payload: bytes) -> Record:
    """Read a record back. Raises msgspec.MsgspecError."""
    return _decoder.decode(payload)


def encode_subject(subject: Subject) -> bytes:
    """A subject alone, as it is kept where its hold outlives every journal."""
    return _encoder.encode(subject)


def decode_subject(encoded: bytes) -> Subject:
    """Read a subject back. Raises msgspec.MsgspecError."""
    return _subject_decoder.decode(encoded)


def fit(ending: Ending) -> Ending:
    """The ending cut to what its place in the journal has room for: first the raw usage goes, then the tools.

    One that cannot be encoded stays as it is: the journal refuses it, and settle books what of it can be booked.
    One without lists and raw usage fits: what is left are three texts and some thirty numbers.
    """
    if not (ending.tools or ending.flags or ending.raw_usage):
        return ending
    with suppress(UnicodeError, OverflowError, TypeError, ValueError):
        if len(_encoder.encode(ending)) > ENDING_BYTES:
            ending = msgspec.structs.replace(ending, raw_usage=None, flags=(*ending.flags[:8], "raw_usage_dropped"))
        if len(_encoder.encode(ending)) > ENDING_BYTES:
            ending = msgspec.structs.replace(ending, tools=())
    return ending


def bookable_text(text: str, length: int = TEXT_LENGTH) -> str:
    """Make any text storable: without NUL or lone surrogates, cut to `length` characters."""
    if len(text) <= length and text.isascii() and "\0" not in text:
        return text
    return text[: length * 2].replace("\0", "").encode("utf-8", "replace").decode("utf-8")[:length]


bookable_name: Final = lru_cache(maxsize=1024)(bookable_text)
"""The same for what is said again and again: names of models and tiers."""


def bookable_count(value: object) -> int | None:
    """A count as integer in 0…2^53, or None where the value cannot be one."""
    return value if type(value) is int and 0 <= value <= MAX_COUNT else None
