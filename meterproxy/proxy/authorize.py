"""Authorize: place a hold for the most that a request may cost, before anything is sent.

Rules
-----
- The usual case is synchronous: a cheap bound, one `try_place`, no await.
- What looks too dear by its bytes is counted by the tokenizer before it is refused, unless the rest could not even pay
  for a much smaller request: an account in a retry loop must not keep the tokenizer busy.
- A client that names no maximum may hold a share of the rest at most. If the model's own maximum would take more, the
  member this model accepts is lowered to what can be paid, never below a useful minimum.
- A hold is never shrunk: what is held covers the bound of what is sent, but for what an adaptive hold exposes.
"""

from typing import Final
from uuid import UUID

import msgspec
from msgspec.structs import replace

from meterproxy.core.bound import Bound, RequestFacts, bound_of
from meterproxy.core.hold import HoldRequest
from meterproxy.core.key import KeyEntry
from meterproxy.core.money import PPM, dollars
from meterproxy.errors import ApiError, Case
from meterproxy.proxy.accept import Asked
from meterproxy.proxy.adaptive import Extension
from meterproxy.proxy.headers import Attribution
from meterproxy.proxy.large_body import expanding
from meterproxy.proxy.placing import Placer, Sort
from meterproxy.proxy.ports import Hold, Ledger, Rest, TokenCounter
from meterproxy.proxy.request_texts import request_texts
from meterproxy.proxy.route import Route
from meterproxy.proxy.settings import ExchangeSettings
from meterproxy.proxy.token_counts import BYTES_PER_TOKEN, at_most
from meterproxy.proxy.turns import Turns

USEFUL_TOKENS: Final = 256
USEFUL_REASONING_TOKENS: Final = 2048
"""The least that an answer of a model that thinks first is lowered to: less may end before its first visible word."""

BYTES_PER_TOKEN_AT_MOST: Final = 16
"""Text that tokenizes better than this is not counted in the hope of a smaller bound."""
TOKENS_PER_TEXT: Final = 8
"""What a chat template adds to each text at most."""

_NO_CREDIT: Final = frozenset({Case.CREDIT_SPENT, Case.CREDIT_HELD, Case.BUDGET_SPENT, Case.TOKENS_LIMITED})
"""Refusals that a smaller bound may change."""


class Authorized(msgspec.Struct, frozen=True):
    """A placed hold; `lowered_maximum` is what each answer was limited to where the client named nothing.

    `extension` is there where not all of the bound is held.
    """

    hold: Hold
    bound: Bound
    lowered_maximum: int | None
    extension: Extension | None = None


class Ceiling(msgspec.Struct, frozen=True, gc=False):
    """The most that one request may hold by rule; None where only the rest itself limits it."""

    nanos: int | None
    tokens: int | None = None

    def below(self, request: HoldRequest) -> bool:
        """Whether a request is above it."""
        if self.nanos is not None and request.hold_nanos > self.nanos:
            return True
        return self.tokens is not None and request.bound.tokens > self.tokens


class Attempt(msgspec.Struct, eq=False):
    """One request on its way to a hold; `counted`: its text has been counted by the tokenizer."""

    request_id: UUID
    occurred_us: int
    key: KeyEntry
    asked: Asked
    route: Route
    attribution: Attribution
    request_facts: RequestFacts
    counted: bool = False

    @property
    def unlimited(self) -> bool:
        """Whether the client named no maximum where it could have."""
        return self.request_facts.own_maximum is None and self.asked.endpoint.maximum is not None

    def bound(self, facts: RequestFacts | None = None) -> Bound:
        """The bound as things stand, or with other facts of the request."""
        return bound_of(self.asked.endpoint.operation, facts or self.request_facts, self.route.model, self.route.facts)

    def sort(self) -> Sort:
        """What decides whether it may be held in part."""
        options = self.asked.usage_options
        tells_usage = options is not None and options.boolean("include_usage")
        return Sort(self.request_facts, self.route.facts, tells_usage)

    def hold_request(self, markup_ppm: int) -> HoldRequest:
        bound = self.bound()
        route = self.route
        return HoldRequest(
            self.request_id,
            self.occurred_us,
            self.key,
            self.asked.endpoint.operation,
            route.provider.name,
            route.model,
            route.price,
            markup_ppm,
            bound,
            route.price.hold_nanos(bound, markup_ppm),
            self.asked.stream,
            self.attribution.conversation,
            self.attribution.tags,
            min(estimated_input(self.request_facts, bound), bound.input_tokens),
        )


def estimated_input(facts: RequestFacts, bound: Bound) -> int:
    """About how many tokens a request has, where nobody has counted them; a bound would mislead by a factor."""
    return facts.text_bytes // BYTES_PER_TOKEN + bound.input_audio_tokens + bound.input_image_tokens


class Authorizer:
    """Places holds."""

    def __init__(self, ledger: Ledger, counter: TokenCounter, settings: ExchangeSettings, turns: Turns) -> None:
        self._ledger = ledger
        self._counter = counter
        self._turns = turns
        self._markup_ppm = settings.markup_ppm
        self._max_share_ppm = settings.hold_max_share_ppm
        self._count_seconds = settings.count_seconds
        self.placer: Final = Placer(ledger, counter, settings) if settings.adaptive else None

    def try_authorize(self, attempt: Attempt) -> Authorized | None:
        """Place the hold of a request if nobody must be asked and nothing adjusted for it; None if `authorize` must.

        Raises:
            ApiError: UNAVAILABLE, OVERLOADED from the ledger.
        """
        request = attempt.hold_request(self._markup_ppm)
        ceiling = self._ceiling_within(attempt, self._ledger.rest(request) if attempt.unlimited else None)
        if ceiling.below(request):
            return None
        try:
            return self._try_place(attempt, request, None)
        except ApiError as refusal:
            if refusal.case in _NO_CREDIT:
                return None
            raise

    async def authorize(self, attempt: Attempt) -> Authorized:
        """Place the hold of a request, whatever that takes.

        Raises:
            ApiError: CREDIT_SPENT, CREDIT_HELD, BUDGET_SPENT, UNAVAILABLE, OVERLOADED from the ledger;
                PERMISSION_DENIED where one request may not cost as much as this one could.
        """
        request = attempt.hold_request(self._markup_ppm)
        lowered_maximum = None
        ceiling = await self._ceiling(attempt, request)
        if ceiling.below(request):
            request, lowered_maximum = await self._fit(attempt, ceiling)
        try:
            return await self._place(attempt, request, lowered_maximum)
        except ApiError as refusal:
            if refusal.case not in _NO_CREDIT or not await self._count(attempt):
                raise
        return await self._place(attempt, attempt.hold_request(self._markup_ppm), lowered_maximum)

    def _try_place(self, attempt: Attempt, request: HoldRequest, lowered_maximum: int | None) -> Authorized | None:
        """Place the hold from what is here."""
        if self.placer is None:
            hold = self._ledger.try_place(request)
            return None if hold is None else Authorized(hold, request.bound, lowered_maximum)
        placed = self.placer.try_place(request, attempt.sort())
        return None if placed is None else Authorized(placed.hold, request.bound, lowered_maximum, placed.extension)

    async def _place(self, attempt: Attempt, request: HoldRequest, lowered_maximum: int | None) -> Authorized:
        """The same, waiting in line where that is needed."""
        if self.placer is None:
            hold = self._ledger.try_place(request) or await self._ledger.place(request)
            return Authorized(hold, request.bound, lowered_maximum)
        placed = await self.placer.place(request, attempt.sort())
        return Authorized(placed.hold, request.bound, lowered_maximum, placed.extension)

    async def _ceiling(self, attempt: Attempt, request: HoldRequest) -> Ceiling:
        """The most that this request may hold by rule."""
        rest = self._ledger.rest(request)
        if rest is None and attempt.unlimited:
            rest = await self._ledger.fetch_rest(request)
        return self._ceiling_within(attempt, rest)

    def _ceiling_within(self, attempt: Attempt, rest: Rest | None) -> Ceiling:
        highest = attempt.key.policy.highest_request_nanos
        if not attempt.unlimited:
            return Ceiling(highest)
        if rest is None:
            return Ceiling(0)
        share = max(rest.nanos, 0) * self._max_share_ppm // PPM
        most_tokens = None if rest.tokens is None else max(rest.tokens, 0) * self._max_share_ppm // PPM
        return Ceiling(share if highest is None else min(share, highest), most_tokens)

    async def _fit(self, attempt: Attempt, ceiling: Ceiling) -> tuple[HoldRequest, int | None]:
        """Bring a request below its ceiling: by counting its text, then by limiting its answers."""
        await self._count(attempt)
        request = attempt.hold_request(self._markup_ppm)
        if not ceiling.below(request):
            return request, None
        lowered_maximum = None
        if attempt.unlimited:
            lowered_maximum = self._affordable(attempt, ceiling)
            attempt.request_facts = replace(attempt.request_facts, own_maximum=lowered_maximum)
            request = attempt.hold_request(self._markup_ppm)
        highest = attempt.key.policy.highest_request_nanos
        if highest is not None and request.hold_nanos > highest:
            raise ApiError(
                Case.PERMISSION_DENIED,
                f"This request may cost up to {dollars(request.hold_nanos)}, but one request of this API key may"
                f" cost {dollars(highest)} at most.",
            )
        return request, lowered_maximum

    def _affordable(self, attempt: Attempt, ceiling: Ceiling) -> int:
        """Tokens of each answer that the ceiling pays for, at least the useful minimum, at most the model's own."""
        highest = attempt.route.facts.max_output_tokens
        useful = USEFUL_REASONING_TOKENS if attempt.route.facts.reasoning else USEFUL_TOKENS
        none, most = (replace(attempt.request_facts, own_maximum=maximum) for maximum in (0, highest))
        tokens = highest
        if ceiling.nanos is not None:
            tokens = _part(highest, ceiling.nanos, self._nanos(attempt, none), self._nanos(attempt, most))
        if ceiling.tokens is not None:
            bounds = attempt.bound(none), attempt.bound(most)
            tokens = min(tokens, _part(highest, ceiling.tokens, *(bound.tokens for bound in bounds)))
        return min(max(tokens, useful), highest)

    def _nanos(self, attempt: Attempt, facts: RequestFacts) -> int:
        """What would have to be held with other facts."""
        return attempt.route.price.hold_nanos(attempt.bound(facts), self._markup_ppm)

    async def _count(self, attempt: Attempt) -> bool:
        """Have the text counted; whether the bound is smaller now."""
        facts = attempt.request_facts
        if attempt.counted or not self._worth_counting(attempt):
            return False
        attempt.counted = True
        reading = request_texts(attempt.asked.endpoint.operation, attempt.asked.members)
        texts, known_tokens = await self._turns.take(reading)
        whole = await self._turns.take(expanding(attempt.asked.members, texts))
        counted = await at_most(self._counter, attempt.route.model, whole, self._count_seconds)
        if counted is None:
            return False
        tokens = counted + known_tokens + TOKENS_PER_TEXT * len(texts)
        if tokens >= facts.text_bytes:
            return False
        attempt.request_facts = replace(facts, text_bytes=tokens)
        return True

    def _worth_counting(self, attempt: Attempt) -> bool:
        """Whether the rest could pay for this request if its text were as short in tokens as a text can be."""
        rest = self._ledger.rest(attempt.hold_request(self._markup_ppm))
        if rest is None:
            return True
        facts = attempt.request_facts
        useful = attempt.route.facts.max_output_tokens if facts.own_maximum is None else facts.own_maximum
        text_bytes = facts.text_bytes // BYTES_PER_TOKEN_AT_MOST
        fewest = replace(facts, text_bytes=text_bytes, own_maximum=min(useful, USEFUL_TOKENS))
        if rest.tokens is not None and attempt.bound(fewest).tokens > rest.tokens:
            return False
        return self._nanos(attempt, fewest) <= rest.nanos


def _part(highest: int, ceiling: int, without: int, whole: int) -> int:
    """How many of `highest` tokens fit below a ceiling, where none take `without` and all of them `whole`."""
    slope = whole - without
    return max(ceiling - without, 0) * highest // slope if slope else highest
