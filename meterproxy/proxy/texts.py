"""Texts of answers: what a tokenizer counts where the provider did not say what was used.

Rules
-----
- Texts come apart by choice and kind (content, refusal, reasoning, each tool call's arguments), the pieces of a stream
  joined again, because tokens do not end where pieces end.
- What cannot be read is left out, never raised; an error's text is no output.
- A stream's events are kept as they came until it is known whether they are needed. What most events have in common is
  kept once, so that a long stream takes a tenth of its bytes; all streams together take at most what their pool has.
  What finds no room is counted in bytes, and the caller estimates.
"""

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import msgspec

from meterproxy.proxy.body import without_surrogates
from meterproxy.proxy.sse import data_of, split_events

FRESH_BYTES: Final = 16384
"""Bytes of a stream that are kept as they came, outside of the pool."""

_MARKS: Final = (b"\x00", b"\x01")
_FRAME_MINIMUM: Final = 16


class Kept(NamedTuple):
    """Events of a stream, and how many bytes of it found no room."""

    events: bytes
    dropped_bytes: int


class TextPool:
    """The memory that all streams of a worker may take for events that may have to be counted."""

    __slots__ = ("_maximum_bytes", "taken_bytes")

    def __init__(self, maximum_bytes: int = 64 << 20) -> None:
        self._maximum_bytes = maximum_bytes
        self.taken_bytes = 0

    def take(self, size: int) -> bool:
        """Count bytes in if there is room for them."""
        if self.taken_bytes + size > self._maximum_bytes:
            return False
        self.taken_bytes += size
        return True

    def give_back(self, size: int) -> None:
        self.taken_bytes -= size


class _Packed(NamedTuple):
    """Events in which the marks stand for the bytes that most of them begin and end with."""

    frame: tuple[bytes, bytes]
    events: bytes


class KeptEvents:
    """The events of one stream so far; `close` gives its memory back."""

    __slots__ = ("_fresh", "_fresh_bytes", "_packed", "_pool", "dropped_bytes")

    def __init__(self, pool: TextPool) -> None:
        self._pool = pool
        self._fresh: list[bytes] = []
        self._fresh_bytes = 0
        self._packed: list[_Packed] = []
        self.dropped_bytes = 0

    def add(self, events: bytes) -> None:
        """Keep whole events."""
        self._fresh.append(events)
        self._fresh_bytes += len(events)
        if self._fresh_bytes > FRESH_BYTES:
            self._pack()

    def kept(self) -> Kept:
        """All events that found room, as they came."""
        return Kept(b"".join([*map(_unpacked, self._packed), *self._fresh]), self.dropped_bytes)

    def close(self) -> None:
        """Forget everything."""
        self._pool.give_back(sum(len(packed.events) for packed in self._packed))
        self._packed.clear()
        self._fresh.clear()
        self._fresh_bytes = 0

    def _pack(self) -> None:
        events = b"".join(self._fresh)
        packed = _pack(events)
        if self._pool.take(len(packed.events)):
            self._packed.append(packed)
        else:
            self.dropped_bytes += len(events)
        self._fresh.clear()
        self._fresh_bytes = 0


def _pack(events: bytes) -> _Packed:
    """Write marks for what two events from the middle have in common; the marks themselves occur in no JSON."""
    frame = _frame(events)
    packed = events.translate(None, b"".join(_MARKS))
    for common, mark in zip(frame, _MARKS, strict=True):
        packed = packed.replace(common, mark) if common else packed
    return _Packed(frame, packed)


def _unpacked(packed: _Packed) -> bytes:
    events = packed.events
    for common, mark in zip(packed.frame, _MARKS, strict=True):
        events = events.replace(mark, common)
    return events


def _frame(events: bytes) -> tuple[bytes, bytes]:
    start = events.find(b"\n\n", len(events) // 2)
    middle = events.find(b"\n\n", start + 2)
    end = events.find(b"\n\n", middle + 2)
    if not 0 <= start < middle < end:
        return b"", b""
    first, second = events[start + 2 : middle], events[middle + 2 : end]
    head = _alike(first, second)
    tail = _alike(first[: head - 1 : -1], second[: head - 1 : -1]) if head else 0
    return (
        first[:head] if head >= _FRAME_MINIMUM else b"",
        first[len(first) - tail :] if tail >= _FRAME_MINIMUM else b"",
    )


def _alike(first: bytes, second: bytes) -> int:
    """How many bytes at their beginning are the same."""
    pairs = zip(first, second, strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second)))


class _Function(msgspec.Struct):
    name: Any = None
    arguments: Any = None
    input: Any = None


class _Call(msgspec.Struct):
    index: Any = None
    function: _Function | None = None
    custom: _Function | None = None


class _Piece(msgspec.Struct):
    content: Any = None
    refusal: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    tool_calls: list[_Call] | None = None
    function_call: _Function | None = None


class _Choice(msgspec.Struct):
    index: Any = None
    text: Any = None
    message: _Piece | None = None
    delta: _Piece | None = None


class _Answer(msgspec.Struct):
    choices: list[_Choice] | None = None


_ANSWER: Final = msgspec.json.Decoder(_Answer)

Texts = dict[tuple[object, ...], list[str]]


def answer_texts(body: bytes) -> list[str]:
    """The texts of a plain answer of chat or completions; nothing where it has none or cannot be read."""
    texts: Texts = {}
    _collect(body, texts)
    return _joined(texts)


def stream_texts(events: bytes) -> list[str]:
    """The texts of a stream's events, the pieces of each text joined."""
    texts: Texts = {}
    for event in split_events(events):
        data = data_of(event)
        if data.startswith(b"{"):
            _collect(data, texts)
    return _joined(texts)


def tool_names(body: bytes) -> list[str]:
    """The names of the tools that an answer or an event calls, in order, as often as they are there."""
    return [
        function.name
        for choice in _choices(body)
        for piece in (choice.message, choice.delta)
        if piece is not None
        for function in _functions(piece)
        if isinstance(function.name, str) and function.name
    ]


def _choices(body: bytes) -> list[_Choice]:
    try:
        return _ANSWER.decode(body).choices or []
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        whole = without_surrogates(body)
        return [] if whole == body else _choices(whole)


def _functions(piece: _Piece) -> Iterable[_Function]:
    for call in piece.tool_calls or ():
        yield from (function for function in (call.function, call.custom) if function is not None)
    if piece.function_call is not None:
        yield piece.function_call


def _collect(body: bytes, texts: Texts) -> None:
    for place, choice in enumerate(_choices(body)):
        number = _number(choice.index, place)
        _add(texts, (number, "text"), choice.text)
        for piece in (choice.message, choice.delta):
            if piece is not None:
                _collect_piece(texts, number, piece)


def _collect_piece(texts: Texts, number: int, piece: _Piece) -> None:
    _add(texts, (number, "content"), piece.content)
    _add(texts, (number, "refusal"), piece.refusal)
    _add(texts, (number, "reasoning"), piece.reasoning_content or piece.reasoning)
    for place, call in enumerate(piece.tool_calls or ()):
        for function in (call.function, call.custom):
            _collect_function(texts, (number, "call", _number(call.index, place)), function)
    _collect_function(texts, (number, "call"), piece.function_call)


def _collect_function(texts: Texts, key: tuple[object, ...], function: _Function | None) -> None:
    if function is not None:
        _add(texts, (*key, "name"), function.name)
        _add(texts, (*key, "arguments"), function.arguments)
        _add(texts, (*key, "input"), function.input)


def _number(index: object, place: int) -> int:
    return index if isinstance(index, int) else place


def _add(texts: Texts, key: tuple[object, ...], text: object) -> None:
    if isinstance(text, str) and text:
        texts.setdefault(key, []).append(text)


def _joined(texts: Texts) -> list[str]:
    return ["".join(pieces) for pieces in texts.values()]
