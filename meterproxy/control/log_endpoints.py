"""Direct logging: usage that did not pass here is told us, once however often it is told.

Rules
-----
- An event is claimed in PostgreSQL, then booked like any other exchange, then answered by what the books say. What was
  answered is in PostgreSQL; what was not may be told again and is not booked twice (see `store/logged.py`).
- Who was refused may tell the event anew, with other contents too.
"""

import hashlib
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Self
from uuid import UUID

import orjson
from pydantic import AfterValidator, Field, StrictBool, model_validator

from meterproxy.control.access import Permission
from meterproxy.control.answers import Answer, Nanos, Usd, money
from meterproxy.control.bodies import Body, Instant, Name, Text
from meterproxy.control.call import Call, Services
from meterproxy.control.identity import bearer
from meterproxy.control.principal import Key, User
from meterproxy.control.route import Route
from meterproxy.core.key import digest_of
from meterproxy.core.logged import LoggedUsage
from meterproxy.core.usage import Usage
from meterproxy.errors import ApiError, Case, StoreUnavailable
from meterproxy.proxy.headers import CONVERSATION_BYTES, TAG_BYTES, TAGS_MAXIMUM
from meterproxy.store.instants import to_us
from meterproxy.store.logged import Booked, Claimed

OLDEST: Final = timedelta(days=30)
EARLIEST: Final = timedelta(minutes=5)
"""By how much the clock of who tells may be ahead of ours."""
MOST: Final = 100_000_000
"""Of any kind in one event: more than one exchange can come to."""


def _label(text: str) -> str:
    if not text.isprintable() or len(text.encode()) > min(TAG_BYTES, CONVERSATION_BYTES):
        raise ValueError(f"must be at most {TAG_BYTES} bytes of printable text")
    return text


def _tag_name(text: str) -> str:
    if "=" in text:
        raise ValueError("must not contain '=', which separates a tag's name from its value")
    return text


Count = Annotated[int, Field(ge=0, le=MOST, strict=True)]
Label = Annotated[str, Field(min_length=1, max_length=TAG_BYTES), AfterValidator(_label)]
TagName = Annotated[Label, AfterValidator(_tag_name)]
Named = Annotated[str, Field(min_length=1, max_length=256), Text, AfterValidator(lambda text: text.encode() and text)]


class UsageEvent(Body):
    """One exchange that went another way; what was cached is among `input_tokens`, reasoning among `output_tokens`."""

    event_id: Annotated[Name, AfterValidator(lambda text: text.encode() and text)]
    model: Named
    provider: Named = "openai"
    occurred_at: Instant | None = None
    charge: StrictBool = True
    input_tokens: Count = 0
    cached_tokens: Count = 0
    cache_write_tokens: Count = 0
    output_tokens: Count = 0
    reasoning_tokens: Count = 0
    images: Count = 0
    audio_ms: Count = 0
    characters: Count = 0
    web_searches: Count = 0
    file_searches: Count = 0
    latency_ms: Annotated[int, Field(ge=0, le=86_400_000, strict=True)] = 0
    conversation_id: Label | None = None
    tags: Annotated[dict[TagName, Label], Field(max_length=TAGS_MAXIMUM)] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _parts_are_parts(self) -> Self:
        if self.cached_tokens + self.cache_write_tokens > self.input_tokens:
            raise ValueError("cached_tokens and cache_write_tokens are parts of input_tokens")
        if self.reasoning_tokens > self.output_tokens:
            raise ValueError("reasoning_tokens is a part of output_tokens")
        return self

    def usage(self) -> Usage:
        """The same in kinds that do not overlap."""
        return Usage(
            input=self.input_tokens - self.cached_tokens - self.cache_write_tokens,
            cache_read=self.cached_tokens,
            cache_write=self.cache_write_tokens,
            output=self.output_tokens - self.reasoning_tokens,
            reasoning=self.reasoning_tokens,
            requests=1,
            images=self.images,
            audio_ms=self.audio_ms,
            characters=self.characters,
            web_searches=self.web_searches,
            file_searches=self.file_searches,
        )

    def digest(self) -> bytes:
        """Of all that is said of the event."""
        told = {name: getattr(self, name) for name in type(self).model_fields if name != "event_id"}
        return hashlib.sha256(orjson.dumps(told, option=orjson.OPT_SORT_KEYS)).digest()


class LoggedEvent(Answer):
    """An event that is in the books, under the id of a request like any other."""

    event_id: str
    request_id: UUID
    occurred_at: datetime
    provider: str
    model: str
    charged: bool
    amount: Usd
    amount_nanos: Nanos

    @classmethod
    def of(cls, event: UsageEvent, booked: Booked) -> Self:
        return cls(
            event_id=event.event_id,
            request_id=booked.request_id,
            occurred_at=booked.occurred_at,
            provider=event.provider,
            model=event.model,
            charged=event.charge,
            **money(amount=booked.amount_nanos),
        )


async def _logged(on: Services, call: Call) -> LoggedEvent:
    event, now = call.body_as(UsageEvent), datetime.now(UTC)
    occurred_at = event.occurred_at or now
    if not now - OLDEST <= occurred_at <= now + EARLIEST:
        text = f"An event can be logged for {OLDEST.days} days after it has occurred."
        raise ApiError(Case.MALFORMED, text, param="occurred_at")
    found = await on.logged.claim(call.account_id, event.event_id, event.digest(), occurred_at)
    booked = found if isinstance(found, Booked) else await _booked(on, call, event, found)
    return LoggedEvent.of(event, booked)


async def _booked(on: Services, call: Call, event: UsageEvent, claimed: Claimed) -> Booked:
    """Have an event booked that this call has claimed."""
    booked = None
    if not claimed.is_new:
        await on.machine.settle_now()
        booked = await on.logged.booked(call.account_id, claimed)
    if booked is None:
        try:
            await on.machine.log(await _usage(on, call, event, claimed))
        except (ApiError, StoreUnavailable):
            with suppress(StoreUnavailable):  # then it is this call's for a minute
                await on.logged.give_back(call.account_id, event.event_id, is_new=claimed.is_new)
            raise
        booked = await on.logged.booked(call.account_id, claimed)
    if booked is None:
        raise ApiError(Case.UNAVAILABLE, "This event is written down and not booked yet. Send it again to hear of it.")
    return booked


async def _usage(on: Services, call: Call, event: UsageEvent, claimed: Claimed) -> LoggedUsage:
    return LoggedUsage(
        request_id=claimed.request_id,
        occurred_us=to_us(claimed.occurred_at),
        key_digest=digest_of(await _secret(on, call)),
        provider=event.provider,
        model=event.model,
        usage=event.usage(),
        charged=event.charge,
        latency_us=event.latency_ms * 1000,
        conversation=event.conversation_id,
        tags=tuple(event.tags.items()),
    )


async def _secret(on: Services, call: Call) -> bytes:
    """The secret of the key that pays: the caller's own, or the one by which he chats."""
    principal = call.acting.principal
    if isinstance(principal, Key):
        return bearer(call.request)
    user = principal if isinstance(principal, User) and call.acting.role is not None else None
    secret = await on.keys.chat_secret(call.account_id, None if user is None else user.id, on.tokens.key_secret)
    return secret.encode()


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        method="POST",
        path="/api/usage/log",
        permission=Permission.LOG_OWN,
        endpoint=_logged,
        summary="Log usage that did not pass here, charged or not; once for each event_id",
        body=UsageEvent,
        answer=LoggedEvent,
        refusals=(
            Case.ACCOUNT_FROZEN, Case.CREDIT_SPENT, Case.MODEL_NOT_PRICED, Case.CONFLICT, Case.KEY_RUNNING,
        ),
    ),
)  # fmt: skip
