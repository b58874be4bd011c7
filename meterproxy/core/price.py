"""Price: what a model charges, compiled to integers, and the one arithmetic that holds and captures share.

Rules
-----
- A rate is integer nanodollars per its kind's own unit size. An amount is the sum over kinds of count × rate, brought
  to one common denominator, then divided once, rounding up. The charged amount multiplies the same sum by the markup
  before its own single division; it is never computed from the rounded cost.
- Tiers are cliffs: the number of input tokens chooses one set of rates for the whole usage.
- `service_tier` of the answer chooses the card; an unknown or missing one means "default".
- A price is named by its content: equal prices have equal ids, a changed price has another id, forever.
- No kind is free by omission. What a kind without a rate of its own costs is decided when a card is written:
    1. It takes the rate of its natural parent (`PARENTS`): the kind it would have been without the feature that split
       it off. A cached token was an input token, a reasoning token is an output token; providers that name no other
       rate bill them so. This is expected and not flagged.
    2. A token kind with no priced parent takes the dearest rate written for its direction, and its use is flagged
       `unpriced_kind:<kind>`: audio or pictures at an unknown rate must not be cheaper than what is known.
    3. A kind with no rate in its direction at all (a web search, an hour of audio) is charged 0 because there is
       nothing to charge it by, and its use is flagged the same way. `requests` alone is not flagged: a fee per request
       is an extra that most models do not have, and every exchange is a request.
  To make a kind free its 0 must be written.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from operator import ge, mul
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Self
from uuid import UUID

import msgspec
import orjson

from meterproxy.core.bound import Bound
from meterproxy.core.money import PPM, div_ceil
from meterproxy.core.usage import INPUT_KINDS, KINDS, OUTPUT_KINDS, Usage


class Rates(NamedTuple):
    """Nanodollars per unit size of each kind; the fields are those of `Usage`."""

    input: int = 0
    cache_read: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    input_audio: int = 0
    cache_read_audio: int = 0
    input_image: int = 0
    cache_read_image: int = 0
    output: int = 0
    reasoning: int = 0
    output_audio: int = 0
    output_image: int = 0
    requests: int = 0
    images: int = 0
    audio_ms: int = 0
    characters: int = 0
    web_searches: int = 0
    file_searches: int = 0


_OWN_SIZES: Final = {"requests": 1000, "images": 1, "audio_ms": 3_600_000, "web_searches": 1000, "file_searches": 1000}
SIZES: Final = Rates(**{kind: _OWN_SIZES.get(kind, 1_000_000) for kind in KINDS})
"""Units that one rate pays for: a million tokens or characters, a thousand requests or searches, an hour, a picture."""

DENOMINATOR: Final = 18_000_000
"""The least common multiple of all sizes, so that a sum over kinds stays an integer until its one division."""

_SCALES: Final = tuple(DENOMINATOR // size for size in SIZES)

PARENTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "cache_read": "input",
        "cache_write": "input",
        "cache_write_1h": "cache_write",
        "cache_read_audio": "input_audio",
        "cache_read_image": "input_image",
        "reasoning": "output",
    }
)
"""The kind whose rate holds for a kind that has none of its own."""

DEFAULT: Final = "default"
BATCH: Final = "batch"

_CATEGORIES: Final = (INPUT_KINDS, OUTPUT_KINDS)
_NEVER_FLAGGED: Final = frozenset({"requests"})
_VERSION_8: Final = 0x8 << 76
_VARIANT: Final = 0x2 << 62
_NAME_BITS: Final = ~(0xF << 76 | 0x3 << 62)


def only_when_asked(card: str) -> bool:
    """Whether an answer cannot come from a card unless the request went that way.

    True of batches and of cards named `member=value`, whose price hangs on a member of the request that is not
    `service_tier`.
    """
    return card == BATCH or "=" in card


class RateTier(NamedTuple):
    """Rates of a whole usage with more than `above_input_tokens` tokens of input; -1 for the first tier."""

    above_input_tokens: int
    rates: Rates


class Amounts(msgspec.Struct, frozen=True, gc=False):
    """What the provider charges us, and what we charge: the same sum times the markup."""

    cost_nanos: int
    amount_nanos: int


class _Ceiling(NamedTuple):
    """One tier as a hold sees it: scaled rates of the dearest kind that each part of a bound may turn out to be."""

    above_input_tokens: int
    highest_input_tokens: int | None
    text: int
    text_1h: int
    audio: int
    image: int
    output: int
    output_audio: int
    output_image: int
    others: tuple[int, ...]
    prices_others: bool


def _scaled(rates: Rates) -> tuple[int, ...]:
    return tuple(map(mul, rates, _SCALES))


def _ceiling(tier: RateTier, highest_input_tokens: int | None) -> _Ceiling:
    rates = Rates(*_scaled(tier.rates))
    text = max(rates.input, rates.cache_read, rates.cache_write)
    output = max(rates.output, rates.reasoning)
    others = rates[len(INPUT_KINDS) + len(OUTPUT_KINDS) :]
    return _Ceiling(
        tier.above_input_tokens,
        highest_input_tokens,
        text=text,
        text_1h=max(text, rates.cache_write_1h),
        audio=max(rates.input_audio, rates.cache_read_audio),
        image=max(rates.input_image, rates.cache_read_image),
        output=output,
        output_audio=max(output, rates.output_audio),
        output_image=max(output, rates.output_image),
        others=others,
        prices_others=any(others),
    )


@dataclass(frozen=True, slots=True)
class RateCard:
    """The rates of one service tier, one set per cliff.

    `substituted` are the kinds that took their parent's rate; `unpriced` those whose use is flagged.
    """

    tiers: tuple[RateTier, ...]
    substituted: frozenset[str] = frozenset()
    unpriced: frozenset[str] = frozenset()
    _thresholds: tuple[tuple[int, tuple[int, ...]], ...] = field(init=False, repr=False, compare=False)
    _ceilings: tuple[_Ceiling, ...] = field(init=False, repr=False, compare=False)
    _watched: tuple[tuple[int, str], ...] = field(init=False, repr=False, compare=False)
    _watching: tuple[bool, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        above = [tier.above_input_tokens for tier in self.tiers]
        if not above or above[0] != -1 or sorted(set(above)) != above:
            raise ValueError(f"tiers must begin at -1 and rise: {above}")
        if any(type(rate) is not int or rate < 0 for tier in self.tiers for rate in tier.rates):
            raise ValueError("a rate must be an integer and not negative")
        thresholds = tuple((tier.above_input_tokens, _scaled(tier.rates)) for tier in reversed(self.tiers))
        ceilings = tuple(map(_ceiling, self.tiers, [*above[1:], None]))
        watched = tuple((KINDS.index(kind), f"unpriced_kind:{kind}") for kind in KINDS if kind in self.unpriced)
        object.__setattr__(self, "_thresholds", thresholds)
        object.__setattr__(self, "_ceilings", ceilings)
        object.__setattr__(self, "_watched", watched)
        object.__setattr__(self, "_watching", tuple(kind in self.unpriced for kind in KINDS))

    @classmethod
    def written(cls, tiers: Sequence[tuple[int, Mapping[str, int]]]) -> Self:
        """Make a card of the rates that were written down; see the rules above for the kinds that are missing.

        Every tier must name the same kinds. Shapes: `[(-1, {"input": 2_500_000_000, …}), (200_000, {…})]`.

        Raises:
            ValueError: no tiers, tiers out of order or with different kinds, an unknown kind, a negative rate.
        """
        if not tiers:
            raise ValueError("a card needs at least one tier")
        named = frozenset(tiers[0][1])
        if not named <= frozenset(KINDS) or any(frozenset(rates) != named for _, rates in tiers):
            raise ValueError(f"tiers must name the same known kinds: {sorted(named)}")
        parents = {kind: _priced_parent(kind, named) for kind in KINDS if kind not in named}
        unpriced = frozenset(kind for kind, parent in parents.items() if parent is None) - _NEVER_FLAGGED
        return cls(
            tuple(RateTier(above, _completed(rates, parents)) for above, rates in tiers),
            substituted=frozenset(kind for kind, parent in parents.items() if parent is not None),
            unpriced=unpriced,
        )

    @property
    def written_kinds(self) -> frozenset[str]:
        """The kinds that have a rate of their own."""
        return frozenset(KINDS) - self.substituted - self.unpriced - _NEVER_FLAGGED

    def rates_for(self, input_tokens: int) -> Rates:
        """The rates of a usage with that many tokens of input."""
        return next(tier.rates for tier in reversed(self.tiers) if input_tokens > tier.above_input_tokens)

    def numerator(self, usage: Usage) -> int:
        """Nanodollars × `DENOMINATOR` of a usage."""
        if len(self._thresholds) > 1:
            input_tokens = usage.input_tokens
            for above, scaled in self._thresholds:
                if input_tokens > above:
                    return sum(map(mul, usage, scaled))
        return sum(map(mul, usage, self._thresholds[-1][1]))

    def highest_numerator(self, bound: Bound) -> int:
        """Nanodollars × `DENOMINATOR` of the dearest usage within a bound, over every tier that it can reach.

        The dearest tier need not be the last one: a cliff may lead down.
        """
        ceilings = self._ceilings
        if len(ceilings) == 1:
            return _tier_highest(ceilings[0], bound)
        reached = [ceiling for ceiling in ceilings if ceiling.above_input_tokens < bound.input_tokens]
        return max([_tier_highest(ceiling, bound) for ceiling in reached])

    def never_below(self, other: "RateCard") -> bool:
        """Whether every bound is at least as dear on this card as on the other: same cliffs, no lower rate."""
        return self.tiers == other.tiers or (
            len(self.tiers) == len(other.tiers)
            and all(
                mine.above_input_tokens == theirs.above_input_tokens and all(map(ge, mine.rates, theirs.rates))
                for mine, theirs in zip(self.tiers, other.tiers, strict=True)
            )
        )

    def flags(self, usage: Usage) -> tuple[str, ...]:
        if not any(compress(usage, self._watching)):
            return ()
        return tuple(flag for index, flag in self._watched if usage[index])


def _tier_highest(ceiling: _Ceiling, bound: Bound) -> int:
    input_tokens = bound.input_tokens
    if ceiling.highest_input_tokens is not None and ceiling.highest_input_tokens < input_tokens:
        input_tokens = ceiling.highest_input_tokens
    text = ceiling.text_1h if bound.cache_write_1h else ceiling.text
    total = input_tokens * text
    if bound.input_audio_tokens and ceiling.audio > text:
        total += min(bound.input_audio_tokens, input_tokens) * (ceiling.audio - text)
    if bound.input_image_tokens and ceiling.image > text:
        total += min(bound.input_image_tokens, input_tokens) * (ceiling.image - text)
    output = ceiling.output
    if bound.output_audio and ceiling.output_audio > output:
        output = ceiling.output_audio
    if bound.output_image and ceiling.output_image > output:
        output = ceiling.output_image
    total += bound.output_tokens * output
    return total + sum(map(mul, bound.others, ceiling.others)) if ceiling.prices_others else total


def _priced_parent(kind: str, named: frozenset[str]) -> str | None:
    parent = PARENTS.get(kind)
    while parent is not None and parent not in named:
        parent = PARENTS.get(parent)
    return parent


def _completed(rates: Mapping[str, int], parents: Mapping[str, str | None]) -> Rates:
    completed = dict(rates)
    for kind, parent in parents.items():
        completed[kind] = _dearest_beside(kind, rates) if parent is None else rates[parent]
    return Rates(**completed)


def _dearest_beside(kind: str, rates: Mapping[str, int]) -> int:
    category = next((kinds for kinds in _CATEGORIES if kind in kinds), ())
    return max((rates[beside] for beside in category if beside in rates), default=0)


@dataclass(frozen=True, slots=True)
class Price:
    """What one provider charges for one model: a card per service tier, "default" always among them."""

    provider: str
    model: str
    cards: Mapping[str, RateCard]
    id: UUID = field(init=False)
    _document: bytes = field(init=False, repr=False, compare=False)
    _default: RateCard = field(init=False, repr=False, compare=False)
    _unasked: tuple[RateCard, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if DEFAULT not in self.cards:
            raise ValueError("a price needs a default card")
        document = _document_of(self)
        object.__setattr__(self, "cards", MappingProxyType(dict(self.cards)))
        object.__setattr__(self, "_document", document)
        object.__setattr__(self, "id", _name_of(document))
        object.__setattr__(self, "_default", self.cards[DEFAULT])
        unasked = [card for name, card in self.cards.items() if not only_when_asked(name)]
        object.__setattr__(self, "_unasked", _dearest(unasked))

    def __hash__(self) -> int:
        return hash(self.id.bytes)

    @property
    def free(self) -> bool:
        """Whether zeros were written for all that can be charged."""
        return not any(any(tier.rates) for card in self.cards.values() for tier in card.tiers)

    def card_for(self, service_tier: str | None) -> RateCard:
        if service_tier is None:
            return self._default
        return self.cards.get(service_tier, self._default)

    def amounts(self, usage: Usage, service_tier: str | None, markup_ppm: int) -> Amounts:
        """What a usage costs us and what we charge for it, each exact but for one rounding up."""
        numerator = self.card_for(service_tier).numerator(usage)
        return Amounts(div_ceil(numerator, DENOMINATOR), div_ceil(numerator * markup_ppm, DENOMINATOR * PPM))

    def hold_nanos(self, bound: Bound, markup_ppm: int) -> int:
        """The highest amount that any usage within the bound can come to, on any card the bound allows."""
        numerator = max([card.highest_numerator(bound) for card in self._reachable(bound.variants)])
        return div_ceil(numerator * markup_ppm, DENOMINATOR * PPM)

    def _reachable(self, variants: tuple[str, ...] | None) -> Sequence[RateCard]:
        if variants is None:
            return self._unasked
        return [self.card_for(name) for name in variants] or (self._default,)

    def flags(self, usage: Usage, service_tier: str | None) -> tuple[str, ...]:
        """`unpriced_kind:<kind>` for each used kind whose rate is not the provider's word."""
        return self.card_for(service_tier).flags(usage)

    def document(self) -> bytes:
        """The price as canonical JSON: sorted keys, no spaces; its SHA-256 is the price's id."""
        return self._document

    @classmethod
    def from_document(cls, document: bytes) -> Self:
        """Read what `document` wrote.

        Raises:
            ValueError: not such a document.
        """
        try:
            tree = orjson.loads(document)
            return cls(
                tree["provider"], tree["model"], {name: _card_from(card) for name, card in tree["cards"].items()}
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError("not the document of a price") from error


def _dearest(cards: Sequence[RateCard]) -> tuple[RateCard, ...]:
    """Leave out the cards that another one covers, so that a hold looks at few."""
    kept: list[RateCard] = []
    for card in cards:
        if not any(other.never_below(card) for other in kept):
            kept = [other for other in kept if not card.never_below(other)] + [card]
    return tuple(kept)


def _document_of(price: Price) -> bytes:
    cards = {name: _card_tree(card) for name, card in price.cards.items()}
    tree = {"provider": price.provider, "model": price.model, "cards": cards}
    return orjson.dumps(tree, option=orjson.OPT_SORT_KEYS)


def _card_tree(card: RateCard) -> dict[str, Any]:
    return {
        "tiers": [
            {"above_input_tokens": tier.above_input_tokens, "rates": tier.rates._asdict()} for tier in card.tiers
        ],
        "substituted": sorted(card.substituted),
        "unpriced": sorted(card.unpriced),
    }


def _card_from(tree: Mapping[str, Any]) -> RateCard:
    tiers = tuple(RateTier(tier["above_input_tokens"], Rates(**tier["rates"])) for tier in tree["tiers"])
    return RateCard(tiers, frozenset(tree["substituted"]), frozenset(tree["unpriced"]))


def _name_of(document: bytes) -> UUID:
    """A UUID of version 8 (RFC 9562, section 5.8) made of the first bits of the document's SHA-256."""
    digest = int.from_bytes(hashlib.sha256(document).digest()[:16], "big")
    return UUID(int=digest & _NAME_BITS | _VERSION_8 | _VARIANT)
