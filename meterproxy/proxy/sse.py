r"""Server-sent events: finds events, their ending and their fields in bytes that arrive in any pieces.

Rules
-----
- Lines end in `\n`, `\r\n` or `\r` bytes and in nothing else; an event ends with an empty line. Lines and events may be
  of any length.
- Nothing depends on how a stream was cut into chunks: the same bytes give the same events and the same edited stream.
  The one exception is an event of more than 1 MiB, which is edited only if it arrives in one piece.
- No JSON is built for ordinary events: bytes are searched, and only an event that may matter is looked into.
- A stream is edited only where we asked for usage and the client did not. What it gets is then byte for byte what the
  provider would have sent without the option: the event that only carries usage is taken out whole, `"usage": null` at
  the top level of others is cut with its comma. Everything else stays: usage beside choices (some providers send it
  unasked), Azure's first event (empty choices, no usage), comments, garbage.
"""

import re
from collections.abc import Iterator
from typing import Final

from meterproxy.errors import ApiError
from meterproxy.proxy.body import Members, scan

EVENT_MAXIMUM: Final = 8 << 20
"""Bytes of an unfinished event that are kept to be read; a longer event passes unread."""
HELD_MAXIMUM: Final = 1 << 20
"""Bytes of an unfinished event that an editor holds back; a longer event passes unedited."""

_END: Final = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LINE: Final = re.compile(rb"[^\r\n]+")
_DATA: Final = re.compile(rb"(?:\xef\xbb\xbf)?data(?:: ?|\Z)")

_DONE_MARK: Final = b"[DONE]"
_DONE_BYTES: Final = len(b"data: [DONE]")

_USAGE: Final = b'"usage"'
_MEMBERS: Final = frozenset({"choices", "usage"})
_EMPTY_LIST: Final = re.compile(rb"\[[ \t\r\n]*\]")
_NULL_LAST: Final = re.compile(
    rb',[ ]?"usage":[ ]?null(?=(?:,[ ]?"\w+":[ ]?(?:"[^"\\\r\n]*"|[\w.+-]+))*\}(?>\r\n|\n|\r)(?>\r\n|\n|\r))', re.ASCII
)
"""`"usage": null` followed by plain members only, the closing brace and the event's end: so it is at the top level."""
_DATA_ONLY: Final = re.compile(rb"[\r\n]*+data: ?\{[^\r\n]*+(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
"""An event of a single line of data; empty lines before it, and the last line feed of its end, make no difference."""


class EventSplitter:
    """Holds back the unfinished event, so that what comes out is whole events, byte for byte and in order.

    Where a maximum is given, an unfinished event of more bytes is dropped and what comes out goes on behind it.
    """

    __slots__ = ("_dropping", "_held", "_maximum_bytes", "dropped_bytes", "held_bytes")

    def __init__(self, maximum_bytes: int | None = None) -> None:
        self._maximum_bytes = maximum_bytes
        self._dropping = False
        """Whether an event is being dropped; then its last byte so far is held."""
        self._held: list[bytes] = []
        self.held_bytes = 0
        self.dropped_bytes = 0

    def feed(self, chunk: bytes) -> bytes:
        """The events that are whole with this chunk, empty where none is."""
        if self._dropping:
            chunk = self._behind_dropped(chunk)
            if not chunk:
                return b""
        if chunk.endswith((b"\n\n", b"\n\r\n", b"\r\r")):
            return self._take(chunk) if self._held else chunk
        end = self._last_end(chunk)
        if end == 0:
            self._hold(chunk)
            return b""
        events = self._take(chunk[:end])
        self._hold(chunk[end:])
        return events

    def finish(self) -> bytes:
        """What is left at the stream's end: an event without its empty line."""
        rest = self._take(b"")
        return b"" if self._dropping else rest

    def _behind_dropped(self, chunk: bytes) -> bytes:
        """What is left of a chunk behind the end of the event that is being dropped."""
        before = self._take(b"")
        end = _END.search(before + chunk)
        if end is None:
            self.dropped_bytes += len(chunk)
            self._held.append((before + chunk)[-1:])
            self.held_bytes = 1
            return b""
        self._dropping = False
        cut = end.end() - len(before)
        self.dropped_bytes += cut
        return chunk[cut:]

    def _last_end(self, chunk: bytes) -> int:
        """Where in the chunk its last event ends, 0 where none does."""
        before = self._held[-1][-1:] if self._held else b""
        text = before + chunk
        start = max(text.rfind(b"\n\n"), text.rfind(b"\n\r"), text.rfind(b"\r\r"))
        if start < 0:
            return 0
        end = start + 2
        if text[end - 1] == 13 and text[end : end + 1] == b"\n":
            end += 1
        return end - len(before)

    def _hold(self, rest: bytes) -> None:
        if rest:
            self._held.append(rest)
            self.held_bytes += len(rest)
            if self._maximum_bytes is not None and self.held_bytes > self._maximum_bytes:
                self.dropped_bytes += self.held_bytes
                self._dropping = True
                self._held[:] = [rest[-1:]]
                self.held_bytes = 1

    def _take(self, last: bytes) -> bytes:
        events = b"".join((*self._held, last))
        self._held.clear()
        self.held_bytes = 0
        return events


def split_events(block: bytes) -> Iterator[bytes]:
    """Cut whole events apart, each with its empty line; the last may lack it."""
    position = 0
    for end in _event_ends(block):
        yield block[position:end]
        position = end
    if position < len(block):
        yield block[position:]


def _event_ends(block: bytes) -> Iterator[int]:
    """Where events end. Nearly all streams end their lines in line feeds only, which a plain search finds."""
    if block.find(b"\r") >= 0:
        yield from (end.end() for end in _END.finditer(block))
        return
    end = block.find(b"\n\n")
    while end >= 0:
        yield end + 2
        end = block.find(b"\n\n", end + 2)


def data_of(event: bytes) -> bytes:
    """An event's data: its `data` lines joined by a line feed; empty for comments and other fields."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2 and event.find(b"\r") < 0:
        return event[6:-2]
    lines = [event[field.end() : line.end()] for line in _LINE.finditer(event) if (field := _field(event, line))]
    return lines[0] if len(lines) == 1 else b"\n".join(lines)


def _field(event: bytes, line: re.Match[bytes]) -> re.Match[bytes] | None:
    """The name of a line's field where it is `data`; a byte order mark before it (of the stream) does not count."""
    return _DATA.match(event, line.start(), line.end())


class DoneFinder:
    """Finds `data: [DONE]`, the terminal event of chat and completions, as soon as its last byte is there."""

    __slots__ = ("_line", "found")

    def __init__(self) -> None:
        self._line: bytes | None = b""
        """The unfinished line so far; None where it cannot become the terminal event any more."""
        self.found = False

    @property
    def at_line_start(self) -> bool:
        """Whether no line is unfinished."""
        return self._line == b""

    def feed(self, chunk: bytes) -> int | None:
        """Where in this chunk the terminal piece begins; None if it is not here, or was before.

        The piece begins with the event's own line, or with the chunk where that line began in an earlier one.
        """
        if self.found:
            return None
        line = self._line
        text = line + chunk if line else chunk
        mark = text.find(_DONE_MARK)
        while mark >= 0:
            start = _line_of_done(text, mark)
            if start > 0 or (start == 0 and line is not None):
                self.found = True
                return max(0, start - (len(text) - len(chunk)))
            mark = text.find(_DONE_MARK, mark + 1)
        self._line = b"" if text.endswith((b"\n", b"\r")) else self._unfinished(text)
        return None

    def _unfinished(self, text: bytes) -> bytes | None:
        tail = text[-_DONE_BYTES:]
        start = max(tail.rfind(b"\n"), tail.rfind(b"\r")) + 1
        if start:
            return tail[start:]
        return text if self._line is not None and len(text) < _DONE_BYTES else None


def _line_of_done(text: bytes, mark: int) -> int:
    """Where the line `data: [DONE]` begins whose mark is there; -1 where the mark stands in another line."""
    start = mark - (6 if text[mark - 1 : mark] == b" " else 5)
    if start < 0 or not text.startswith(b"data:", start):
        return -1
    return start if start == 0 or text[start - 1] in b"\r\n" else -1


class StreamEditor:
    """Takes out of a stream what is only there because we asked for usage; `feed` returns what the client gets."""

    __slots__ = ("_passing", "_splitter", "_swallow")

    def __init__(self) -> None:
        self._splitter = EventSplitter()
        self._passing = b""
        """The last byte of a too long event that is being passed on; empty where none is."""
        self._swallow: bool | None = None
        """After an event that ended in `\\r`: whether the `\\n` that may follow goes as the event went."""

    @property
    def idle(self) -> bool:
        """Whether nothing is held back or half passed, so that whole events could go by without being fed."""
        return not (self._splitter.held_bytes or self._passing or self._swallow is not None)

    def feed(self, chunk: bytes) -> bytes:
        """What can be forwarded now."""
        if not chunk:
            return b""
        lead = b""
        if self._swallow is not None:
            if chunk.startswith(b"\n"):
                lead, chunk = (b"" if self._swallow else b"\n"), chunk[1:]
            self._swallow = None
        if self._passing:
            passed, chunk = self._pass(chunk)
            lead += passed
        return lead + self._edit_whole(chunk) if lead else self._edit_whole(chunk)

    def finish(self) -> bytes:
        """What was held back, at the stream's end."""
        rest = self._splitter.finish()
        return edit_event(rest)

    def _edit_whole(self, chunk: bytes) -> bytes:
        events = self._splitter.feed(chunk)
        edited = self._edit(events) if events.find(_USAGE) >= 0 else events
        if events.endswith(b"\r") and self._splitter.held_bytes == 0:
            *_, last = split_events(events)
            self._swallow = last.find(_USAGE) >= 0 and edit_event(last) == _blank_lines(last)
        if self._splitter.held_bytes > HELD_MAXIMUM:
            rest = self._splitter.finish()
            self._passing = rest[-1:]
            return edited + rest
        return edited

    def _pass(self, chunk: bytes) -> tuple[bytes, bytes]:
        """Go on with an event that is too long: the bytes up to its end, and those after it."""
        text = self._passing + chunk
        end = _END.search(text)
        if end is None:
            self._passing = text[-1:]
            return chunk, b""
        cut = end.end() - 1
        self._passing = b""
        if cut == len(chunk) and chunk.endswith(b"\r"):
            self._swallow = False
        return chunk[:cut], chunk[cut:]

    def _edit(self, events: bytes) -> bytes:
        first = _DATA_ONLY.match(events)
        if first is not None and first.end() == len(events):
            return edit_event(events)
        return b"".join([edit_event(event) for event in split_events(events)])


class StreamHolder:
    """Holds back the unfinished event and changes nothing; in the editor's place where whole events must be read first.

    An event of more than 1 MiB passes, as an editor's does: no answer's head is as long.
    """

    __slots__ = ("_splitter",)

    def __init__(self) -> None:
        self._splitter = EventSplitter()

    @property
    def idle(self) -> bool:
        """Whether nothing is held back."""
        return not self._splitter.held_bytes

    def feed(self, chunk: bytes) -> bytes:
        """What can be forwarded now."""
        events = self._splitter.feed(chunk)
        if self._splitter.held_bytes > HELD_MAXIMUM:
            return events + self._splitter.finish()
        return events

    def finish(self) -> bytes:
        """What was held back, at the stream's end."""
        return self._splitter.finish()


def edit_event(event: bytes) -> bytes:
    """One event without the usage that we asked for; where it goes, the empty lines before it stay."""
    if event.find(_USAGE) < 0:
        return event
    if _DATA_ONLY.fullmatch(event) is not None:
        null = _NULL_LAST.search(event, max(0, event.rfind(_USAGE) - 2))
        if null is not None:
            return event[: null.start()] + event[null.end() :]
    data = data_of(event)
    members = _members(data)
    usage = None if members is None else members.raw("usage")
    if members is None or usage is None:
        return event
    if usage.startswith(b"{"):
        return _blank_lines(event) if _EMPTY_LIST.fullmatch(members.raw("choices") or b"") else event
    ends = [line.end() for line in _LINE.finditer(event) if _field(event, line)]
    if usage != b"null" or len(ends) != 1:
        return event
    start, span = ends[0] - len(data), members.spans["usage"]
    return event[: start + span.cut_start] + event[start + span.cut_end :]


def _blank_lines(event: bytes) -> bytes:
    return event[: len(event) - len(event.lstrip(b"\r\n"))]


def _members(data: bytes) -> Members | None:
    """The members that decide about an event; None where its data is no JSON object that can be read in one way."""
    try:
        return scan(data, _MEMBERS)
    except ApiError:
        return None
