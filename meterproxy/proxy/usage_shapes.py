"""Usage shapes: how each operation's usage object maps to our disjoint kinds.

Rules
-----
- A shape is a row of data: which member is the whole of a direction, and which details are parts of that whole.
- An explicit zero is zero, an absent or null part is zero, an absent whole means that there is no usage.
- Impossible usage is no usage: a count that is no integer in 0…2^53, a part larger than its whole, a total above its
  ceiling. The caller counts instead and keeps the raw object.
- Cached audio is in both `cached_tokens` and `audio_tokens`. Where parts overlap because of that, the smallest overlap
  that fits is booked as its own kind.
- Rejected prediction tokens are inside `completion_tokens` and billed as output (OpenAI's API reference), accepted ones
  too, so neither is a kind. A total above input plus output is output that the provider left out of its whole: xAI
  reports reasoning beside the completion, Google's compatible endpoint only in the total (believed up to the context).
- Every exchange is one request.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Final, Literal, NamedTuple

import msgspec

from meterproxy.core.usage import MAX_COUNT, Usage

IMPOSSIBLE: Final = "impossible_usage"
INCOMPLETE: Final = "incomplete_usage"
UNKNOWN: Final = "unknown_usage"
"""Followed by `:` and the name of a count that no kind stands for."""

_FLAG_LENGTH: Final = 64


class Ceiling(msgspec.Struct, frozen=True, gc=False):
    """The most that an answer can have used, None where nothing is known: context (× prompts), maximum × n."""

    input_tokens: int | None = None
    output_tokens: int | None = None


class Taken(NamedTuple):
    """What a usage object came to: usage, or None with the flags that say why."""

    usage: Usage | None
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Shape:
    """The names of one usage object's members, and the kind that each part is."""

    input: str
    output: str
    output_required: bool
    input_details: str
    output_details: str
    total: str = "total_tokens"


_INPUT_PARTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "cached_tokens": "cache_read",
        "cache_write_tokens": "cache_write",
        "audio_tokens": "input_audio",
        "image_tokens": "input_image",
    }
)
_OUTPUT_PARTS: Final[Mapping[str, str]] = MappingProxyType(
    {"reasoning_tokens": "reasoning", "audio_tokens": "output_audio", "image_tokens": "output_image"}
)
_NO_KINDS: Final = frozenset({"text_tokens", "accepted_prediction_tokens", "rejected_prediction_tokens"})
_OVERLAPS: Final = (("input_audio", "cache_read_audio"), ("input_image", "cache_read_image"))

_CHAT_DETAILS: Final = ("prompt_tokens_details", "completion_tokens_details")

CHAT: Final = Shape("prompt_tokens", "completion_tokens", True, *_CHAT_DETAILS)
EMBEDDING: Final = Shape("prompt_tokens", "completion_tokens", False, *_CHAT_DETAILS)
RESPONSE: Final = Shape("input_tokens", "output_tokens", True, "input_tokens_details", "output_tokens_details")

SHAPES: Final[Mapping[str, Shape]] = MappingProxyType(
    {"chat": CHAT, "completion": CHAT, "embedding": EMBEDDING, "response": RESPONSE, "image": RESPONSE}
)
"""By operation."""


class _Impossible(Exception):
    """A number that cannot be."""


Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]


class _InputDetails(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The parts of an input that usual answers name; of these only cached tokens are looked at."""

    cached_tokens: Count = 0
    text_tokens: Count = 0
    audio_tokens: Literal[0] = 0
    image_tokens: Literal[0] = 0
    cache_write_tokens: Literal[0] = 0


class _OutputDetails(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    reasoning_tokens: Count = 0
    text_tokens: Count = 0
    audio_tokens: Literal[0] = 0
    image_tokens: Literal[0] = 0
    accepted_prediction_tokens: Count = 0
    rejected_prediction_tokens: Count = 0


_NO_INPUT_DETAILS: Final = _InputDetails()
_NO_OUTPUT_DETAILS: Final = _OutputDetails()


class UsualUsage(msgspec.Struct):
    """The usage object of a usual answer of chat and completions."""

    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count
    prompt_tokens_details: _InputDetails = _NO_INPUT_DETAILS
    completion_tokens_details: _OutputDetails = _NO_OUTPUT_DETAILS


_USUAL: Final = msgspec.json.Decoder(UsualUsage)


def take_usual_usage(raw: bytes, ceiling: Ceiling) -> Usage | None:
    """The usage of a usual answer, read by types alone; None where `take_usage` must look closely."""
    try:
        return usual_usage(_USUAL.decode(raw), ceiling)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def usual_usage(usage: UsualUsage, ceiling: Ceiling) -> Usage | None:
    """What a usage object of the usual types says; None where `take_usage` must look closely."""
    whole_input, whole_output = usage.prompt_tokens, usage.completion_tokens
    cached = usage.prompt_tokens_details.cached_tokens
    reasoning = usage.completion_tokens_details.reasoning_tokens
    if (
        cached > whole_input
        or reasoning > whole_output
        or usage.total_tokens > whole_input + whole_output
        or _above(whole_input, ceiling.input_tokens)
        or _above(whole_output, ceiling.output_tokens)
    ):
        return None
    return Usage(whole_input - cached, cached, output=whole_output - reasoning, reasoning=reasoning, requests=1)


def take_usage(document: object, shape: Shape, ceiling: Ceiling) -> Taken:
    """Read a usage object (as JSON gave it) into disjoint kinds; never raises."""
    if not isinstance(document, dict):
        return Taken(None, (IMPOSSIBLE,))
    try:
        return _take(document, shape, ceiling)
    except _Impossible:
        return Taken(None, (IMPOSSIBLE,))


def _take(document: dict[str, object], shape: Shape, ceiling: Ceiling) -> Taken:
    whole_input, whole_output = _count(document, shape.input), _count(document, shape.output)
    if whole_input is None or (whole_output is None and shape.output_required):
        return Taken(None, (INCOMPLETE,))
    input_details, output_details = _details(document, shape.input_details), _details(document, shape.output_details)
    kinds = _parts(input_details, _INPUT_PARTS) | _parts(output_details, _OUTPUT_PARTS)
    whole_output = whole_output or 0
    if _above(whole_input, ceiling.input_tokens) or _above(whole_output, ceiling.output_tokens):
        raise _Impossible
    beside = (_count(document, shape.total) or 0) - whole_input - whole_output
    if beside > 0 and _is_reasoning(beside, kinds["reasoning"], whole_input + whole_output, ceiling):
        kinds["reasoning"] = beside
        whole_output += beside
    kinds["input"] = _rest_of_input(whole_input, kinds)
    kinds["output"] = _rest(whole_output, [kinds[kind] for kind in _OUTPUT_PARTS.values()])
    return Taken(
        Usage(requests=1, **kinds), _unknown(input_details, _INPUT_PARTS) + _unknown(output_details, _OUTPUT_PARTS)
    )


def _is_reasoning(beside: int, reported: int, whole: int, ceiling: Ceiling) -> bool:
    """Whether what a total has beyond its parts is reasoning: said to be, or silent and within the context."""
    if reported:
        return reported == beside
    return ceiling.input_tokens is not None and whole + beside <= ceiling.input_tokens


def _above(count: int, highest: int | None) -> bool:
    return highest is not None and count > highest


def _count(document: Mapping[str, object], name: str) -> int | None:
    value = document.get(name)
    if value is None:
        return None
    if type(value) is not int or not 0 <= value <= MAX_COUNT:
        raise _Impossible
    return value


def _details(document: Mapping[str, object], name: str) -> Mapping[str, object]:
    value = document.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _Impossible
    return value


def _parts(details: Mapping[str, object], names: Mapping[str, str]) -> dict[str, int]:
    return {kind: _count(details, name) or 0 for name, kind in names.items()}


def _rest(whole: int, parts: list[int]) -> int:
    rest = whole - sum(parts)
    if rest < 0:
        raise _Impossible
    return rest


def _rest_of_input(whole: int, kinds: dict[str, int]) -> int:
    """Tokens of the input that are in no part; moves what is in two parts to the kind that is both."""
    parts = list(_INPUT_PARTS.values())
    if max(kinds[part] for part in parts) > whole:
        raise _Impossible
    excess = sum(kinds[part] for part in parts) - whole
    for part, both in _OVERLAPS:
        overlap = max(0, min(excess, kinds["cache_read"], kinds[part]))
        kinds["cache_read"] -= overlap
        kinds[part] -= overlap
        kinds[both] = overlap
        excess -= overlap
    return _rest(whole, [kinds[kind] for kind in (*parts, *(both for _, both in _OVERLAPS))])


def _unknown(details: Mapping[str, object], names: Mapping[str, str]) -> tuple[str, ...]:
    """Flags for counts that we do not know but that may be billed otherwise."""
    return tuple(
        f"{UNKNOWN}:{name}"[:_FLAG_LENGTH]
        for name, value in details.items()
        if type(value) is int and value > 0 and name not in names and name not in _NO_KINDS and name.isidentifier()
    )
