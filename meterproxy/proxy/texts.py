"""Texts of answers: what a tokenizer counts where the provider did not say what was used.

Rules
-----
- Texts come apart by choice and kind (content, refusal, reasoning, each tool call's arguments), the pieces of a stream
  joined again, because tokens do not end where pieces end.
- What cannot be read is left out, never raised; an error's text is no output.
- A stream's events are kept as they came until it is known whether they are needed. What most events have in common is
  kept once, so that a long stream takes little more than its text; all streams together take at most what their pool
  has. What finds no room is counted in bytes (of events or of texts), and the caller estimates.
"""

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import msgspec

from meterproxy.proxy.body import without_surrogates
from meterproxy.proxy.ordinary import BETWEEN, Template
from meterproxy.proxy.sse import data_of, split_events

FRESH_BYTES: Final = 16384
FRESH_PIECES: Final = 256
"""What a stream keeps outside of the pool, in bytes and in pieces, before it is joined."""
PIECE_OVERHEAD: Final = 128
"""Bytes that a joined piece takes beyond its own."""


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


class KeptEvents:
    """The events of one stream so far, those that fit a template by their texts alone; `close` gives memory back."""

    __slots__ = ("_fresh", "_fresh_bytes", "_pool", "_settled", "_taken_bytes", "_template", "dropped_bytes")

    def __init__(self, pool: TextPool) -> None:
        self._pool = pool
        self._settled: list[tuple[Template | None, bytes]] = []
        self._template: Template | None = None
        """What `_fresh` are: texts of this template, or events as they came."""
        self._fresh: list[bytes] = []
        self._fresh_bytes = 0
        self._taken_bytes = 0
        self.dropped_bytes = 0

    def add(self, template: Template | None, kept: bytes) -> None:
        """Keep texts of events that fit a template (`BETWEEN` between them), or (without one) whole events."""
        if template is not self._template or len(self._fresh) >= FRESH_PIECES or self._fresh_bytes > FRESH_BYTES:
            self._settle()
            self._template = template
        self._fresh.append(kept)
        self._fresh_bytes += len(kept)

    def kept(self) -> Kept:
        """All events that found room, without their padding."""
        pieces = [*self._settled, (self._template, self._joined())]
        return Kept(b"".join([_events(template, kept) for template, kept in pieces if kept]), self.dropped_bytes)

    def close(self) -> None:
        """Forget everything."""
        self._pool.give_back(self._taken_bytes)
        self._taken_bytes = 0
        self._settled.clear()
        self._clear()

    def _settle(self) -> None:
        kept = self._joined()
        if not kept:
            return
        if self._pool.take(len(kept) + PIECE_OVERHEAD):
            self._taken_bytes += len(kept) + PIECE_OVERHEAD
            self._settled.append((self._template, kept))
        else:
            self.dropped_bytes += len(kept)
        self._clear()

    def _joined(self) -> bytes:
        if self._template is None:
            return b"".join(self._fresh)
        return b"".join([text + BETWEEN for text in self._fresh])

    def _clear(self) -> None:
        self._fresh.clear()
        self._fresh_bytes = 0


def _events(template: Template | None, kept: bytes) -> bytes:
    if template is None:
        return kept
    return b"".join([template.event(text) for text in kept.split(BETWEEN)[:-1]])


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
