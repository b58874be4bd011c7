"""Request facts: what a request's body says about the size of its exchange.

Rules
-----
- Which members matter is a row of `core.bound.OPERATION_BOUNDS`; the arithmetic is there too.
- Only what is structure is judged. A text that merely looks like structure costs a closer look, never another bound.
- Lists may have so many items and no more: what is told of each, here and where texts are counted, is built in one
  step on the event loop.
- Contents that cannot be understood count as input from elsewhere: the model's whole context.
"""

import binascii
import re
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec

from meterproxy.core.bound import OPERATION_BOUNDS, RequestFacts, audio_tokens
from meterproxy.errors import ApiError, Case
from meterproxy.proxy.body import Members
from meterproxy.proxy.mentions import ESCAPED
from meterproxy.proxy.response_facts import read_response_facts

CHOICES_MAXIMUM: Final = 128
"""The most choices that one request may ask for. Source: OpenAI's API description, `n`."""
PROMPTS_MAXIMUM: Final = 2048
"""The most inputs that one request may have. Source: OpenAI's API description, `input` of embeddings."""
SEPARATORS_MAXIMUM: Final = 50_000
"""The most commas outside of strings in `messages` whose parts have to be told apart; a message has two or three."""
TEXT_SEPARATORS_MAXIMUM: Final = 250_000
"""The same for messages that are nothing but text: a million tokens in the smallest of parts."""
UNCOUNTED_BYTES: Final = 1 << 16
"""Messages of fewer bytes than this are not counted: they cannot hold much."""
READ_ALWAYS: Final = frozenset({"model", "stream", "stream_options", "service_tier", "prediction", "modalities"})
AUDIO_HEAD: Final = 88

_PLAIN_TYPES: Final = frozenset({"", "text", "refusal"})
MORE: Final = re.compile(
    rb'"(?:[A-Za-z_]*+"(?:(?<=_url")|(?<=audio")|(?<=file")|(?<=image"))'
    rb'|type"[ \t\r\n]*+:[ \t\r\n]*+(?!"(?:text|refusal|function|custom)"))'
)
"""A name or type that texts do not have. It begins with a quote, of which a long text has few: one look for them is ten
times as fast as a search for each word."""
_SEARCHING: Final = ("search-preview", "search-api")

_CONTENTS: Final = {
    "chat": ("messages", "tools", "functions", "response_format"),
    "completion": ("suffix",),
    "response": ("input", "instructions", "tools", "text", "max_tool_calls", "context_management"),
}
"""The members that hold an operation's texts, where they are not its prompts."""


def members_read(operation: str) -> frozenset[str]:
    """The members of an operation's body that facts and texts are read from."""
    row = OPERATION_BOUNDS[operation]
    prompts = () if row.prompts is None else (row.prompts,)
    return READ_ALWAYS.union(_CONTENTS.get(operation, ()), row.maxima, row.choices, prompts, row.outside)


_UNUSUAL: Final = {
    operation: frozenset({"modalities", "prediction", "service_tier", "web_search_options", *row.choices, *row.outside})
    | (frozenset() if row.prompts is None else {row.prompts})
    for operation, row in OPERATION_BOUNDS.items()
}
"""The members that say more about an exchange's size than its text and its maximum, by operation."""


def read_facts(operation: str, members: Members, model: str) -> RequestFacts:
    """Read what the bound is computed from.

    Raises:
        ApiError: MALFORMED where a number is not one, or out of range.
    """
    row = OPERATION_BOUNDS[operation]
    if operation == "response":
        return read_response_facts(members, row.outside)
    messages = members.raw("messages") or b""
    if len(messages) > UNCOUNTED_BYTES:
        _check_messages(members, messages, TEXT_SEPARATORS_MAXIMUM)
    contents = _contents(messages, members)
    text_bytes, own_maximum = len(members.body) - contents.foreign_bytes, _own_maximum(members, row.maxima)
    if contents is _TEXT_ONLY and members.none_of(_UNUSUAL[operation]):
        return RequestFacts(text_bytes=text_bytes, own_maximum=own_maximum, web_search=_searches(model))
    modalities = members.raw("modalities") or b""
    return RequestFacts(
        text_bytes=text_bytes,
        picture_details=contents.picture_details,
        audio_tokens=contents.audio_tokens,
        outside=contents.outside or not all(map(members.absent, row.outside)),
        own_maximum=own_maximum,
        choices=max([_choices(members, name) for name in row.choices], default=1),
        prompts=_prompts(members, row.prompts),
        prediction_bytes=members.size("prediction"),
        audio_output=b'"audio"' in modalities,
        image_output=b'"image"' in modalities,
        web_search=not members.absent("web_search_options") or _searches(model),
        service_tier=members.string("service_tier"),
    )


def _own_maximum(members: Members, names: tuple[str, ...]) -> int | None:
    """The highest of the members that limit an answer's tokens."""
    highest = None
    for name in names:
        value = members.integer(name)
        if value is not None and (highest is None or value > highest):
            highest = value
    return highest


@lru_cache(maxsize=1024)
def _searches(model: str) -> bool:
    """Whether the model searches the web without being asked."""
    return any(word in model for word in _SEARCHING)


def _choices(members: Members, name: str) -> int:
    value = members.integer(name)
    if value is not None and value > CHOICES_MAXIMUM:
        raise ApiError(Case.MALFORMED, f"'{name}' must be at most {CHOICES_MAXIMUM}.", param=name)
    return max(value or 1, 1)


def _prompts(members: Members, name: str | None) -> int:
    """How many inputs a member holds: one text, one list of token ids, or a list of either."""
    raw = None if name is None else members.raw(name)
    if raw is None or not raw.startswith(b"["):
        return 1
    held = members.counts(name or "", raw, PROMPTS_MAXIMUM)
    prompts = held.strings + max(held.lists - 1, 0) + held.objects
    if prompts > PROMPTS_MAXIMUM or (held.strings and held.commas >= PROMPTS_MAXIMUM):
        raise ApiError(Case.MALFORMED, f"'{name}' must have at most {PROMPTS_MAXIMUM} items.", param=name)
    return max(prompts, 1)


def _check_messages(members: Members, raw: bytes, most_commas: int) -> None:
    """Refuse messages of which too many objects would be built."""
    if members.dense("messages", raw, most_commas):
        raise ApiError(Case.MALFORMED, "'messages' has too many parts.", param="messages")


class _Picture(msgspec.Struct):
    url: msgspec.Raw = msgspec.Raw()
    detail: Any = None


class _Audio(msgspec.Struct):
    data: msgspec.Raw = msgspec.Raw()
    format: Any = None


class _Part(msgspec.Struct):
    type: Any = ""
    image_url: _Picture | None = None
    input_audio: _Audio | None = None
    file: msgspec.Raw = msgspec.Raw()


class _Message(msgspec.Struct):
    content: str | list[_Part] | None = None
    audio: msgspec.Raw = msgspec.Raw()


_MESSAGES: Final = msgspec.json.Decoder(list[_Message])


class _Contents(NamedTuple):
    """What messages hold besides text; `foreign_bytes` are those of the body that are no text."""

    foreign_bytes: int = 0
    picture_details: tuple[str, ...] = ()
    audio_tokens: int = 0
    outside: bool = False


_TEXT_ONLY: Final = _Contents()


def _contents(raw: bytes, members: Members) -> _Contents:
    if not _may_be_more_than_text(members, raw):
        return _TEXT_ONLY
    if len(raw) > UNCOUNTED_BYTES:
        _check_messages(members, raw, SEPARATORS_MAXIMUM)
    length = members.length
    try:
        messages = _MESSAGES.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _Contents(outside=True)
    parts = [part for message in messages if isinstance(message.content, list) for part in message.content]
    pictures = [part.image_url for part in parts if part.image_url is not None]
    audio = [part.input_audio for part in parts if part.input_audio is not None]
    return _Contents(
        foreign_bytes=sum(length(raw) for raw in (*(it.url for it in pictures), *(it.data for it in audio))),
        picture_details=tuple("low" if picture.detail == "low" else "high" for picture in pictures),
        audio_tokens=sum(_audio_tokens(sound, length(sound.data)) for sound in audio),
        outside=any(map(_refers, parts)) or any(_present(message.audio) for message in messages),
    )


def _audio_tokens(sound: _Audio, size: int) -> int:
    """A bound of a sound's tokens by its first bytes; `size` is that of its data as it is written, quotes included."""
    data = bytes(sound.data).strip(b'"')
    try:
        head = binascii.a2b_base64(data[:AUDIO_HEAD])
    except binascii.Error:
        head = b""
    return audio_tokens(
        sound.format if isinstance(sound.format, str) else "", (size - (len(sound.data) - len(data))) * 3 // 4, head
    )


def _refers(part: _Part) -> bool:
    """Whether a part may stand for input that is not in the body."""
    if _present(part.file):
        return True
    plain = isinstance(part.type, str) and part.type in _PLAIN_TYPES
    return part.image_url is None and part.input_audio is None and not plain


def _present(raw: msgspec.Raw) -> bool:
    return bytes(raw) not in {b"", b"null"}


def _may_be_more_than_text(members: Members, raw: bytes) -> bool:
    return members.finds(MORE, "messages", raw) or (raw.find(b"\\") >= 0 and _escaped_name(members, raw))


def _escaped_name(members: Members, raw: bytes) -> bool:
    """Whether a name could be written with escapes that it does not need."""
    return raw.find(b"\\u00") >= 0 and members.finds(ESCAPED, "messages", raw)
