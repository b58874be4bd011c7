"""Forward: send a request to its provider and judge what came back.

Rules
-----
- The client's own bytes go on; only a lowered maximum and our wish for usage are spliced in.
- Nothing is sent before `before_first_byte` has agreed, in the step that writes the first byte.
- An error about the request passes; an error about our credential or account becomes a 503 without its words, and
  the provider rests.
- A provider that rejects `stream_options` is asked once more with the client's own bytes, and remembered for that model
  if that helps.
- What went wrong is told as `Failed`: what the client hears, and what the books must assume.
"""

import hmac
from collections.abc import Callable
from typing import Final
from uuid import UUID

import msgspec
import orjson

from meterproxy.core.usage import Outcome
from meterproxy.errors import ApiError, Case
from meterproxy.proxy.accept import Asked
from meterproxy.proxy.client import Client
from meterproxy.proxy.decode import decoder_for
from meterproxy.proxy.endpoints import Way
from meterproxy.proxy.headers import to_provider
from meterproxy.proxy.paths import provider_path
from meterproxy.proxy.ports import Clock
from meterproxy.proxy.provider import account_refused
from meterproxy.proxy.response_facts import tool_calls_edit
from meterproxy.proxy.route import Route
from meterproxy.proxy.upstream import (
    ProviderHead,
    UpstreamAnswer,
    UpstreamBroken,
    UpstreamBusy,
    UpstreamError,
    UpstreamTimeout,
)

ANSWER_BYTES: Final = 64 << 20
"""The longest answer that is read whole, because something must be known of it before it is passed on."""
ERROR_BYTES: Final = 1 << 20
"""The longest error of a provider that is passed on."""

_OURS: Final = frozenset({401, 402, 403})
_OUR_QUOTA: Final = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
_QUOTA_STATUSES: Final = frozenset({400, 429})
_MISSING_SCOPE: Final = b"Missing scopes"
"""In the 401 to a credential that is good but may not do this. Source: OpenAI's answers to restricted keys."""
_OPTION_STATUSES: Final = frozenset({400, 422})


class Failed(ApiError):
    """A request that was not answered; `sent` says whether the provider may have worked, and billed, all the same."""

    def __init__(self, case: Case, message: str, outcome: Outcome, *, sent: bool) -> None:
        super().__init__(case, message)
        self.outcome = outcome
        self.sent = sent


class Forwarded(msgspec.Struct, frozen=True):
    """A provider's answer: its head, and its body if it is an error's.

    `usage_injected` says that the client's stream must be freed of the usage that only we asked for.
    """

    answer: UpstreamAnswer
    error_body: bytes | None
    usage_injected: bool


class Forwarder(msgspec.Struct, eq=False):
    """Sends one request."""

    client: Client
    asked: Asked
    ids: tuple[str, ...]
    route: Route
    account_id: UUID
    clock: Clock
    before_first_byte: Callable[[], None]
    query: str = ""

    async def forward(self, lowered_maximum: int | None) -> Forwarded:
        """Send the request and read the head of its answer.

        Raises:
            Failed: no answer came, or the provider refused us.
            ApiError: what `before_first_byte` raised.
        """
        edits = self._maximum_edit(lowered_maximum)
        if self.asked.endpoint.tool_calls_maximum is not None:
            edits |= tool_calls_edit(self.asked.members)
        option = self._usage_option()
        if option is None:
            return await self._judge(await self._send(edits), usage_injected=False)
        forwarded = await self._judge(await self._send({**edits, "stream_options": option}), usage_injected=True)
        if not _rejects_option(forwarded):
            return forwarded
        again = await self._judge(await self._send(edits), usage_injected=False)
        if again.error_body is None:
            self.route.provider.reject_usage_option(
                self.asked.endpoint.operation, self.route.model, self.clock.now_us()
            )
        return again

    def _maximum_edit(self, lowered_maximum: int | None) -> dict[str, bytes]:
        field = self.asked.endpoint.maximum_for(self.route.facts)
        if lowered_maximum is None or field is None:
            return {}
        return {field: b"%d" % lowered_maximum}

    def _usage_option(self) -> bytes | None:
        """`stream_options` with `include_usage` as raw JSON; None where it is not wanted or the client asked itself."""
        if not self.asked.stream or not self.asked.endpoint.takes_usage_option:
            return None
        if not self.route.provider.takes_usage_option(
            self.asked.endpoint.operation, self.route.model, self.clock.now_us()
        ):
            return None
        options = self.asked.usage_options
        if options is None:
            return b'{"include_usage":true}'
        if options.boolean("include_usage"):
            return None
        running = {} if options.absent("continuous_usage_stats") else {"continuous_usage_stats": b"false"}
        return options.rewrite({**running, "include_usage": b"true"})

    async def _send(self, edits: dict[str, bytes]) -> UpstreamAnswer:
        members = self.asked.members
        body = members.to_send(edits)
        try:
            return await self.route.provider.upstream.send_prepared(
                self._head(), body, before_first_byte=self.before_first_byte
            )
        except UpstreamError as error:
            raise failed(error) from None

    def _head(self) -> ProviderHead:
        """The head of the request, kept with the client's for the next one that reads the same.

        One with a query is not kept: a list is read with queries of our own.
        """
        own, upstream = self.client.head, self.route.provider.upstream
        if own.forwarded is not None and own.forwarded.upstream is upstream and not self.query:
            return own.forwarded
        path = provider_path(self.asked.endpoint.upstream_template, self.ids)
        if self.query:
            path += "?" + self.query
        idempotency_key = self._idempotency_key()
        headers = to_provider(own.raw_headers, self.route.provider.own_headers, idempotency_key=idempotency_key)
        head = upstream.prepare(self.asked.endpoint.method, path, headers)
        if idempotency_key is None and not self.query:  # one is sent with one request only
            own.forwarded = head
        return head

    def _idempotency_key(self) -> bytes | None:
        """The client's key, made different for each account so that tenants cannot meet in one."""
        keys = self.client.head.idempotency_keys
        return hmac.new(self.account_id.bytes, keys[0], "sha256").hexdigest().encode() if keys else None

    async def _judge(self, answer: UpstreamAnswer, *, usage_injected: bool) -> Forwarded:
        if answer.status < 300:
            return Forwarded(answer, None, usage_injected)
        try:
            body = await answer.read_all(ERROR_BYTES)
        except UpstreamError as error:
            raise failed(error) from None
        if answer.status < 400:
            raise Failed(
                Case.UPSTREAM_UNREACHABLE, "The provider answered with a redirect.", Outcome.UNREACHABLE, sent=True
            )
        if self._refuses_us(answer.status, body):
            self._rest(answer.status, body)
            refusal = account_refused()
            raise Failed(refusal.case, refusal.message, Outcome.PROVIDER_ERROR, sent=False)
        return Forwarded(answer, body, usage_injected)

    def _rest(self, status: int, body: bytes) -> None:
        """Rest for all who would be refused too; what costs nothing, or needs a scope, does not stop everybody."""
        if status == 403 or self.asked.endpoint.way is Way.FREE or _MISSING_SCOPE in body:
            self.route.provider.rest_for(
                self.account_id, self.asked.endpoint.operation, self.route.model, self.clock.now_us()
            )
        else:
            self.route.provider.rest(self.clock.now_us())

    @staticmethod
    def _refuses_us(status: int, body: bytes) -> bool:
        return status in _OURS or (status in _QUOTA_STATUSES and not _OUR_QUOTA.isdisjoint(_names(body)))


def failed(error: UpstreamError) -> Failed:
    """What a client hears of a provider that did not answer, and what the books assume."""
    if isinstance(error, UpstreamBusy):
        return Failed(
            Case.OVERLOADED, "Too many requests to the provider are running.", Outcome.UNREACHABLE, sent=error.sent
        )
    if isinstance(error, UpstreamTimeout) or (isinstance(error, UpstreamBroken) and error.reason == "between_bytes"):
        return Failed(Case.UPSTREAM_TIMEOUT, "The provider did not answer in time.", Outcome.TIMED_OUT, sent=error.sent)
    return Failed(Case.UPSTREAM_UNREACHABLE, "The provider could not be reached.", Outcome.UNREACHABLE, sent=error.sent)


def unreadable(message: str) -> Failed:
    """What a client hears of an answer that must be read before it may be passed on, and cannot be."""
    return Failed(Case.UPSTREAM_UNREACHABLE, message, Outcome.PROVIDER_ERROR, sent=True)


async def read_whole(answer: UpstreamAnswer) -> tuple[bytes, bytes]:
    """An answer's body as it came, and its text.

    Raises:
        Failed: it broke off or cannot be read.
    """
    decoder = decoder_for(answer.fields)
    try:
        body = await answer.read_all(ANSWER_BYTES)
    except UpstreamError as error:
        raise failed(error) from None
    if decoder is None:
        return body, body
    text = decoder.feed(body)
    if not decoder.known or decoder.unread_bytes:
        raise unreadable("The provider's answer is in a coding that nobody asked for.")
    return body, text


def nothing_held() -> None:
    """Agrees to each first byte: what costs nothing is held nowhere, so nothing speaks against sending."""


def _rejects_option(forwarded: Forwarded) -> bool:
    body = forwarded.error_body
    return body is not None and forwarded.answer.status in _OPTION_STATUSES and b"stream_options" in body


def _names(body: bytes) -> set[str]:
    """The code and type of an error, as far as it has OpenAI's shape."""
    try:
        error = orjson.loads(body)["error"]
        return {name for name in (error.get("code"), error.get("type")) if isinstance(name, str)}
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return set()
