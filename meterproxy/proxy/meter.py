"""The meter: what an answer says it used, from a copy of its bytes.

Rules
-----
- Nothing here raises: a provider's broken JSON makes usage None, and the caller counts.
- Usage is taken from any event where it is an object at the top level; the last one wins.
- Ordinary events are recognised and kept unread; JSON is read of those events only that have a mark of something.
- Served model, service tier and id are those of the answer; text is made bookable where it is read.
- An error's text is never output. An error in a stream is noted; the status was sent long before.
"""

import re
from typing import Any, Final

import msgspec
import orjson

from meterproxy.core.record import TOOLS_KEPT, bookable_name, bookable_text
from meterproxy.core.usage import Usage
from meterproxy.proxy.body import without_surrogates
from meterproxy.proxy.new_ids import OWN, Found, audio_ids
from meterproxy.proxy.ordinary import OrdinaryEvents
from meterproxy.proxy.sse import (
    EVENT_MAXIMUM,
    DoneFinder,
    EventSplitter,
    StreamEditor,
    StreamHolder,
    data_of,
    edit_event,
    split_events,
)
from meterproxy.proxy.texts import Kept, KeptEvents, TextPool, stream_texts, tool_names
from meterproxy.proxy.usage_shapes import (
    CHAT,
    SHAPES,
    Ceiling,
    UsualUsage,
    take_usage,
    take_usual_usage,
    usual_usage,
)

RAW_USAGE_MAXIMUM: Final = 1024
"""Bytes of a usage object that is kept as the provider wrote it; a longer one is not kept."""
CLOSE_LOOKS: Final = 4
"""Events of one chunk that are looked into one by one, in the hope that the rest is alike and passes by."""
HEADS_READ: Final = 4
"""Events at a stream's start that are read for model and id; Azure's first has neither."""
TOOLS_READ: Final = 1024
"""Tool calls of one stream that are looked at."""
NO_CEILING: Final = Ceiling()

_USAGE: Final = b'"usage"'
_USAGE_OBJECT: Final = re.compile(rb'"usage"[ \t\r\n]*:[ \t\r\n]*\{')
_AUDIO: Final = b'"audio"'
_ERROR: Final = b'"error"'
_DONE: Final = b"[DONE]"
_NAME: Final = b'"name"'
_UNSTORABLE: Final = re.compile(rb"\\u0000|\d[eE][+-]?\d{3}")
_ABSENT: Final = (b"", b"null")


class Reading(msgspec.Struct, frozen=True):
    """What an answer says of itself; `usage` is None where it says nothing that can be.

    `raw_usage` is the provider's own object, kept where `flags` say that it was impossible or not wholly understood.
    `provider_id` is the id in the body, `failed` whether it is or ended in an error. `running` says that the answer is
    only the beginning of work that goes on in the background, `foreground` that it never was there, `cancelled` that
    somebody has stopped it.
    """

    usage: Usage | None = None
    raw_usage: bytes | None = None
    served_model: str | None = None
    service_tier: str | None = None
    provider_id: str | None = None
    tools: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    failed: bool = False
    web_searches: int = 0
    file_searches: int = 0
    running: bool = False
    foreground: bool = False
    cancelled: bool = False


class _Top(msgspec.Struct):
    id: Any = None
    model: Any = None
    service_tier: Any = None
    usage: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()


_TOP: Final = msgspec.json.Decoder(_Top)


class _UsualAnswer(msgspec.Struct):
    """A plain answer of chat and completions as nearly all are; anything that is not in order makes decoding fail."""

    id: str
    model: str
    usage: UsualUsage
    service_tier: str | None = None
    error: None = None


_USUAL: Final = msgspec.json.Decoder(_UsualAnswer)


def read_answer(operation: str, body: bytes, ceiling: Ceiling = NO_CEILING) -> Reading:
    """Read a plain answer (JSON); never raises."""
    return _read_usual(operation, body, ceiling) or _read_any(operation, body, ceiling)


def _read_usual(operation: str, body: bytes, ceiling: Ceiling) -> Reading | None:
    """Read an answer by types alone, in one go; None where one must look closely."""
    if SHAPES.get(operation) is not CHAT or _calls_tools(body):
        return None
    try:
        answer = _USUAL.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    usage = usual_usage(answer.usage, ceiling)
    if usage is None:
        return None
    tier = answer.service_tier
    return Reading(
        usage, None, bookable_name(answer.model) or None, tier and bookable_name(tier), bookable_text(answer.id) or None
    )


def _read_any(operation: str, body: bytes, ceiling: Ceiling) -> Reading:
    top = _top(body)
    if top is None:
        return Reading()
    usage, raw_usage, flags = read_usage(operation, bytes(top.usage), ceiling)
    tools = distinct(tool_names(body)) if _calls_tools(body) else ()
    return Reading(
        usage, raw_usage, text_of(top.model), text_of(top.service_tier), text_of(top.id), tools, flags, there(top.error)
    )


class StreamMeter:
    """Reads one stream and says what of it goes on. `close` gives back the memory of what was kept for counting.

    Args:
        operation: the glossary's name of what was asked.
        pool: where events that may have to be counted are kept.
        editing: whether we asked for usage and the client did not, so that it must not see it (see `sse`).
        holding: whether only whole events may go on, because what they say must be written down before.
    """

    __slots__ = (
        "_done",
        "_editing",
        "_editor",
        "_head",
        "_heads_left",
        "_holding",
        "_idle",
        "_kept",
        "_new_ids",
        "_operation",
        "_ordinary",
        "_raw_usage",
        "_splitter",
        "_told",
        "_tools",
        "events",
        "failed",
        "finished",
        "overlong",
        "running",
        "terminal",
    )

    def __init__(self, operation: str, pool: TextPool, *, editing: bool = False, holding: bool = False) -> None:
        self._operation = operation
        self._splitter = EventSplitter(EVENT_MAXIMUM)
        self._done = DoneFinder()
        self._editing = editing
        self._holding = holding
        self._new_ids: list[Found] = []
        self._editor = StreamEditor() if editing else StreamHolder() if holding else None
        self._kept = KeptEvents(pool)
        self._ordinary = OrdinaryEvents(self._kept.add)
        self._idle = True
        self._head: dict[str, str] = {}
        self._heads_left = HEADS_READ
        self._told = False
        self._tools: list[str] = []
        self._raw_usage = b""
        self.running = False
        """Whether the answer goes on in the background; these never do."""
        self.overlong = False
        """Whether an event was too long to be held; these pass."""
        self.events = 0
        """Events with JSON so far: about the tokens that were delivered, where a provider sends one in each."""
        self.finished = False
        """Whether a sign of the answer's end was seen: a finish reason, or `[DONE]`."""
        self.failed = False
        """Whether an error event was seen."""
        self.terminal = b""
        """The terminal piece, once it came: it goes after what `feed` returned, when the ending is written."""

    @property
    def done(self) -> bool:
        """Whether the terminal event was seen."""
        return self._done.found

    @property
    def has_usage(self) -> bool:
        """Whether a usage object was seen (it may still be an impossible one)."""
        return bool(self._raw_usage)

    def feed(self, chunk: bytes) -> bytes:
        """Read a chunk as it came from the provider; returns what may be forwarded now.

        Where the chunk holds the terminal event it is cut there, and `terminal` is what must wait for the ending.
        """
        forwarded = b""
        for _ in range(CLOSE_LOOKS):
            if self._idle:
                end, count, passed = self._ordinary.pass_by(chunk)
                self.events += count
                if end == len(chunk):
                    return forwarded + passed if forwarded else passed
                forwarded += passed
                chunk = chunk[end:]
            end = chunk.find(b"\n\n") + 2
            if end < 2 or self.done:
                break
            event, rest = chunk[:end], chunk[end:]
            if self._idle and event.find(_DONE) < 0 and event.find(b"\r") < 0:
                forwarded += self._look_closely(event)
                if not rest:
                    return forwarded
            elif rest:
                forwarded += self._feed(event)
            else:
                break
            chunk = rest
            if self.terminal:
                self.terminal += self._feed(chunk)
                return forwarded
        return forwarded + self._feed(chunk) if forwarded else self._feed(chunk)

    def _look_closely(self, event: bytes) -> bytes:
        """Read one whole event that begins and ends where nothing is held back and is not the terminal one."""
        edited = self._edited(event)
        self._read_event(event, edited)
        return edited

    def _edited(self, event: bytes) -> bytes:
        return edit_event(event) if self._editing else event

    def _feed(self, chunk: bytes) -> bytes:
        cut = self._done.feed(chunk)
        events = self._splitter.feed(chunk)
        if events:
            self._read(events)
        if cut is None:
            forwarded = self._edit(chunk)
        else:
            forwarded = self._edit(chunk[:cut])
            self.terminal = self._edit(chunk[cut:])
            self.finished = True
        self._idle = (
            self._splitter.held_bytes == 0 and self._done.at_line_start and (self._editor is None or self._editor.idle)
        )
        return forwarded

    def finish(self) -> bytes:
        """Read what is left at the stream's end, an event without its empty line; returns what was held back."""
        rest = self._splitter.finish()
        if rest:
            self._read(rest)
        return b"" if self._editor is None else self._editor.finish()

    def _edit(self, chunk: bytes) -> bytes:
        return chunk if self._editor is None else self._editor.feed(chunk)

    def reading(self, ceiling: Ceiling = NO_CEILING) -> Reading:
        """What the stream has said so far."""
        usage, raw_usage, flags = read_usage(self._operation, self._raw_usage, ceiling)
        head = self._head.get
        tools = distinct(self._tools)
        return Reading(usage, raw_usage, head("model"), head("service_tier"), head("id"), tools, flags, self.failed)

    def new_ids(self) -> list[Found]:
        """Ids that were not told yet: they must be written down before what `feed` has returned goes on."""
        found, self._new_ids = self._new_ids, []
        if not self._told and "id" in self._head:
            self._told = True
            found.append(Found(OWN, self._head["id"]))
        return found

    def texts(self) -> tuple[list[str], int]:
        """What the answer has said so far, and how many bytes of it found no room."""
        events, dropped_bytes = self.kept()
        return stream_texts(events), dropped_bytes

    def kept(self) -> Kept:
        """The events so far, for `texts.stream_texts`, and how many bytes of them found no room."""
        events, dropped_bytes = self._kept.kept()
        return Kept(events, dropped_bytes + self._splitter.dropped_bytes)

    def close(self) -> None:
        """Give back the memory of what was kept."""
        self._kept.close()

    def _read(self, events: bytes) -> None:
        """Look closely at whole events (the last may lack its end)."""
        for event in split_events(events):
            if self._ordinary.pass_by(event)[0]:
                self.events += 1
            else:
                self._read_event(event, None)

    def _read_event(self, event: bytes, edited: bytes | None) -> None:
        self._kept.add(None, event)
        self.events += event.startswith(b"data:") or event.lstrip(b"\r\n").startswith(b"data:")
        finished = event.find(b'"finish_reason":"') >= 0 or event.find(b'"finish_reason": "') >= 0
        self.finished = self.finished or finished
        matters = _matters(event)
        if self._holding and event.find(_AUDIO) >= 0:
            self._new_ids += audio_ids(data_of(event))
        if self._heads_left or matters:
            self._read_data(data_of(event))
        if not (finished or matters):
            self._ordinary.learn(event, self._edited(event) if edited is None else edited)

    def _read_data(self, data: bytes) -> None:
        top = _top(data) if data.startswith(b"{") else None
        if top is None:
            return
        for name, value in (("id", top.id), ("model", top.model), ("service_tier", top.service_tier)):
            if text := text_of(value):
                self._head[name] = text
        self._heads_left = 0 if "model" in self._head else max(0, self._heads_left - 1)
        self.failed = self.failed or there(top.error)
        usage = bytes(top.usage)
        if usage.startswith(b"{"):
            self._raw_usage = usage
        if len(self._tools) < TOOLS_READ and _calls_tools(data):
            self._tools += tool_names(data)


def _matters(events: bytes) -> bool:
    """Whether the bytes have a mark of something that must be read."""
    return (
        (events.find(_USAGE) >= 0 and _USAGE_OBJECT.search(events) is not None)
        or events.find(_ERROR) >= 0
        or (events.find(_NAME) >= 0 and _calls_tools(events))
    )


def _calls_tools(document: bytes) -> bool:
    return document.find(b'"tool_calls"') >= 0 or document.find(b'"function_call"') >= 0


def _top(document: bytes) -> _Top | None:
    try:
        return _TOP.decode(document)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        whole = without_surrogates(document)
        return None if whole == document else _top(whole)


def there(raw: msgspec.Raw) -> bool:
    return bytes(raw) not in _ABSENT


def text_of(value: object) -> str | None:
    return bookable_text(value) or None if isinstance(value, str) else None


def distinct(names: list[str]) -> tuple[str, ...]:
    """Tool names once each in their order, bookable, as many as a record keeps."""
    texts = dict.fromkeys(text for name in names if (text := text_of(name)) is not None)
    return tuple(texts)[:TOOLS_KEPT]


def read_usage(operation: str, raw: bytes, ceiling: Ceiling) -> tuple[Usage | None, bytes | None, tuple[str, ...]]:
    """Usage, the raw object where it says more than the usage, and flags that say why."""
    shape = SHAPES.get(operation)
    if raw in _ABSENT or shape is None:
        return None, None, ()
    if shape is CHAT and (usual := take_usual_usage(raw, ceiling)) is not None:
        return usual, None, ()
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError:
        document = None
    usage, flags = take_usage(document, shape, ceiling)
    return usage, _storable(raw) if flags else None, flags


def _storable(raw: bytes) -> bytes | None:
    """The raw object if PostgreSQL can keep it as `jsonb`: short, without NUL, Unicode, no number beyond its range."""
    if len(raw) > RAW_USAGE_MAXIMUM or _UNSTORABLE.search(raw) is not None:
        return None
    try:
        orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    return raw
