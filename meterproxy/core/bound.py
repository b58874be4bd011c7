"""Bound: the most that the answer to a request may turn out to consume.

Rules
-----
- A bound is never below what the provider can report: where a fact is missing, the highest possible value stands in.
- Text is bounded by its bytes as they stand in the body. A token is made of at least one byte of text; JSON's own
  bytes (`{"role":"user","content":""}` for each message) outweigh the few tokens that a chat template spends on a
  message, and `TEMPLATE_TOKENS` covers what a template says of its own accord. This holds for tokenizers that work on
  bytes or characters. One that first normalises (NFKC makes up to 18 characters of one) can be led beyond it by a text
  written for that purpose; what is measured above a bound is booked as an overrun, never lost.
- Base64 is not text: pictures and audio are taken out of the counted bytes and bounded by formulas of their own.
- Input that is not in the body (a stored conversation, a file id, a web search) counts as the model's whole context.
- Input is never bounded above the context, once per prompt: a provider refuses what does not fit. That is safe only as
  long as the known context is not below the real one, so the catalog takes the highest number that any source names,
  and the highest of all models where none does.
- Output is what the request itself allows, else what the model can; for each choice of each prompt.
- Tools that the provider runs itself make the model read its context again after each call, and may have a fee of
  their own per call. How many calls there may be is in the request, or is written into it; a tool that is not in
  `HOSTED_TOOLS` has costs that no price of ours names.
- What cannot be bounded is refused by the caller, never guessed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple

import msgspec

TEMPLATE_TOKENS: Final = 1024
"""Tokens that a chat template may add by itself: special tokens, a default system prompt, the preamble about tools.
The longest known is Anthropic's for tools, below 700 tokens."""


class Bound(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The highest counts an exchange can come to.

    `input_tokens` and `output_tokens` are totals over all kinds of their direction; `input_audio_tokens` and
    `input_image_tokens` say how many of the input may be audio or pictures, `output_audio` and `output_image` whether
    output may be. `variants` are the service tiers that the answer may come from; None: any that need not be asked for.
    """

    input_tokens: int
    output_tokens: int
    input_audio_tokens: int = 0
    input_image_tokens: int = 0
    output_audio: bool = False
    output_image: bool = False
    cache_write_1h: bool = False
    requests: int = 1
    images: int = 0
    audio_ms: int = 0
    characters: int = 0
    web_searches: int = 0
    file_searches: int = 0
    variants: tuple[str, ...] | None = None

    @property
    def tokens(self) -> int:
        """Tokens of both directions: what limits on tokens hold."""
        return self.input_tokens + self.output_tokens

    @property
    def others(self) -> tuple[int, ...]:
        """The counts of all kinds but tokens, in the order of `core.usage.OTHER_KINDS`."""
        return (self.requests, self.images, self.audio_ms, self.characters, self.web_searches, self.file_searches)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is known of a model's size; `certain_output` is False where the maximum output is a configured default."""

    context_tokens: int
    max_output_tokens: int
    reasoning: bool = False
    mode: str | None = None
    certain_output: bool = True


class RequestFacts(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a request says about its own size.

    `text_bytes` is the length of the body without base64. `picture_details` has the wanted detail of each picture.
    `choices` is `n` or `best_of`, whichever is higher; `prompts` how many inputs are answered one by one.
    `prediction_bytes` is the length of a predicted output, whose rejected tokens are billed as output.
    `outside` says that input comes from elsewhere than the body. `hosted_tools` are the names of the tools that the
    provider may run, `tool_calls` how often at most all together; `passes` says how often the model may read and write
    anew of its own accord (a conversation that is compacted on the way takes two).
    """

    text_bytes: int
    picture_details: tuple[str, ...] = ()
    audio_tokens: int = 0
    outside: bool = False
    own_maximum: int | None = None
    choices: int = 1
    prompts: int = 1
    prediction_bytes: int = 0
    audio_output: bool = False
    image_output: bool = False
    web_search: bool = False
    service_tier: str | None = None
    hosted_tools: tuple[str, ...] = ()
    tool_calls: int = 0
    passes: int = 1


class OperationBound(NamedTuple):
    """How an operation is bounded: the members of its body that say so.

    `maxima` name the request's own maximum of output tokens, `choices` its multipliers, `prompts` the member that may
    hold several inputs, `outside` members whose presence brings in input that is not in the body.
    """

    output: bool
    template_tokens: int
    maxima: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    prompts: str | None = None
    outside: tuple[str, ...] = ()


OPERATION_BOUNDS: Final[Mapping[str, OperationBound]] = MappingProxyType(
    {
        "chat": OperationBound(
            output=True,
            template_tokens=TEMPLATE_TOKENS,
            maxima=("max_completion_tokens", "max_tokens"),
            choices=("n",),
            outside=("web_search_options",),
        ),
        "completion": OperationBound(
            output=True,
            template_tokens=TEMPLATE_TOKENS,
            maxima=("max_tokens",),
            choices=("n", "best_of"),
            prompts="prompt",
        ),
        "embedding": OperationBound(output=False, template_tokens=8, prompts="input"),
        "response": OperationBound(
            output=True,
            template_tokens=TEMPLATE_TOKENS,
            maxima=("max_output_tokens",),
            outside=("previous_response_id", "conversation", "prompt"),
        ),
        "moderation": OperationBound(output=False, template_tokens=8, prompts="input"),
    }
)


HOSTED_TOOLS: Final[Mapping[str, str | None]] = MappingProxyType(
    {"web_search": "web_searches", "file_search": "file_searches", "mcp": None, "tool_search": None}
)
"""Tools that a provider runs by itself, each with the kind that its calls are charged as, if they are.

Not here: pictures and code, whose fees are another model's tokens and containers by the hour."""

_VARIANTS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "default": ("default",),
        "standard": ("default",),
        "standard_only": ("default",),
        "flex": ("flex", "default"),
        "priority": ("priority", "fast", "default"),
        "fast": ("fast", "priority", "default"),
    }
)


def variants_of(service_tier: str | None) -> tuple[str, ...] | None:
    """The service tiers an answer may come from; None (any) where the request leaves it to the provider.

    A tier that was asked for may be unavailable: OpenAI then answers from, and bills, the default one and says so.
    """
    return None if service_tier is None else _VARIANTS.get(service_tier)


def bound_of(operation: str, request: RequestFacts, model: str, facts: ModelFacts) -> Bound:
    """Bound an exchange.

    Raises:
        KeyError: the operation has no bound, so it must be refused.
    """
    row = OPERATION_BOUNDS[operation]
    prompts = max(1, request.prompts)
    choices = max(1, request.choices)
    pictures = sum([picture_tokens(model, detail) for detail in request.picture_details])
    context = facts.context_tokens * prompts
    in_body = request.text_bytes + row.template_tokens * prompts + pictures + request.audio_tokens
    input_tokens = context if request.outside or request.web_search else min(in_body, context)
    if request.hosted_tools or request.passes > 1:
        return _bound_of_many_turns(request, facts, context, pictures)
    return Bound(
        input_tokens=input_tokens,
        input_audio_tokens=min(request.audio_tokens, input_tokens),
        input_image_tokens=min(pictures, input_tokens),
        output_tokens=_output_tokens(request, facts) * choices * prompts if row.output else 0,
        output_audio=request.audio_output,
        output_image=request.image_output,
        web_searches=choices * prompts if request.web_search else 0,
        variants=variants_of(request.service_tier),
    )


def _bound_of_many_turns(request: RequestFacts, facts: ModelFacts, context: int, pictures: int) -> Bound:
    """Bound an answer for which the model reads its context several times, with whatever its tools have found.

    The request's own maximum holds for all turns together, the model's for each.
    """
    calls = request.tool_calls if request.hosted_tools else 0
    turns = (calls + 1) * request.passes
    output = facts.max_output_tokens * turns if request.own_maximum is None else request.own_maximum
    counted = {HOSTED_TOOLS[name] for name in request.hosted_tools}
    return Bound(
        input_tokens=context * turns,
        input_audio_tokens=min(request.audio_tokens, context) * turns,
        input_image_tokens=(context if request.hosted_tools else min(pictures, context)) * turns,
        output_tokens=output + request.prediction_bytes,
        output_audio=request.audio_output,
        output_image=request.image_output,
        web_searches=calls if "web_searches" in counted else 0,
        file_searches=calls if "file_searches" in counted else 0,
        variants=variants_of(request.service_tier),
    )


def _output_tokens(request: RequestFacts, facts: ModelFacts) -> int:
    """A maximum above what the model is known to give is refused by its provider, or comes to the model's own."""
    own = facts.max_output_tokens if request.own_maximum is None else request.own_maximum
    if facts.certain_output:
        own = min(own, facts.max_output_tokens)
    return own + request.prediction_bytes


class _PictureTokens(NamedTuple):
    low: int
    high: int


def _tiles(base: int, tile: int) -> _PictureTokens:
    """A picture is fitted into 2048 × 2048, then its shorter side into 768: at most 4 × 2 tiles of 512 × 512."""
    return _PictureTokens(base, base + 8 * tile)


def _patches(hundredths: int) -> _PictureTokens:
    """A picture is shrunk until 1536 patches of 32 × 32 cover it; each counts as `hundredths`/100 tokens."""
    highest = -(-1536 * hundredths // 100)
    return _PictureTokens(highest, highest)


_PICTURES: Final[Mapping[str, _PictureTokens]] = MappingProxyType(
    {
        "gpt-4o-mini": _tiles(2833, 5667),
        "gpt-4o": _tiles(85, 170),
        "chatgpt-4o": _tiles(85, 170),
        "gpt-4-turbo": _tiles(85, 170),
        "gpt-4.1-mini": _patches(162),
        "gpt-4.1-nano": _patches(246),
        "gpt-4.1": _patches(100),
        "gpt-5-mini": _patches(162),
        "gpt-5-nano": _patches(246),
        "gpt-5": _tiles(70, 140),
        "o4-mini": _patches(172),
        "o1": _tiles(75, 150),
        "o3": _tiles(75, 150),
    }
)
"""By family, the longer name first. Source: OpenAI's guide "Images and vision", section on costs."""

_PICTURE_OF_UNKNOWN: Final = _PictureTokens(49_152, 49_152)
"""Above the dearest published formula (gpt-4o-mini: 48 169)."""


def picture_tokens(model: str, detail: str) -> int:
    """The most tokens of input that one picture can be counted as, whatever its bytes.

    Bytes say nothing: a large picture of one colour compresses to a few hundred. `detail` is "low", "high", "auto", or
    "original", for which no formula is published.
    """
    if detail == "original":
        return _PICTURE_OF_UNKNOWN.high
    name = model.rpartition("/")[2]
    for family, tokens in _PICTURES.items():
        if name == family or name.startswith(f"{family}-"):
            return tokens.low if detail == "low" else tokens.high
    return _PICTURE_OF_UNKNOWN.high


_AUDIO_TOKENS_PER_SECOND: Final = 32
"""Gemini counts 32 tokens a second, OpenAI 10 (one per 100 ms); the higher stands in for all."""

_LOWEST_BYTES_PER_SECOND: Final[Mapping[str, int]] = MappingProxyType({"pcm16": 48_000, "mp3": 1000})
"""The slowest stream a format allows: raw samples are 24 kHz × 16 bit; MPEG audio goes down to 8 kbit/s (MPEG-2.5)."""

_SLOWEST: Final = 500
"""Bytes per second below which no codec in use goes (Opus: 6 kbit/s and its framing)."""


def audio_tokens(audio_format: str, size: int, head: bytes = b"") -> int:
    """The most tokens of input that `size` bytes of audio can be counted as.

    `head` are the first 44 bytes or more; for a WAV file of plain samples they tell the true speed.
    """
    speed = _wav_bytes_per_second(head) if audio_format == "wav" else _LOWEST_BYTES_PER_SECOND.get(audio_format)
    return -(-size * _AUDIO_TOKENS_PER_SECOND // (speed or _SLOWEST))


def _wav_bytes_per_second(head: bytes) -> int | None:
    """Sample rate × bytes per frame of a canonical RIFF header with plain samples, else None.

    The header's own byte rate is not asked: players ignore it, so it may say anything.
    """
    if len(head) < 36 or head[:4] != b"RIFF" or head[8:16] != b"WAVEfmt " or head[20:22] != b"\x01\x00":
        return None
    sample_rate = int.from_bytes(head[24:28], "little")
    frame_bytes = int.from_bytes(head[32:34], "little")
    channels = int.from_bytes(head[22:24], "little")
    bits = int.from_bytes(head[34:36], "little")
    return sample_rate * frame_bytes if frame_bytes == channels * -(-bits // 8) else None
