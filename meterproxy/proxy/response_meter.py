"""The response meter: what the stream of a responses request says, and which of its events must wait.

Rules
-----
- Only whole events go on: an event may bring ids that must be written down first, or be the terminal one. Nothing in
  them is changed.
- Ordinary events (pieces of text and of arguments) have no mark and are searched once, by bytes; JSON is built of the
  few that have one. In JSON a quote within a text is escaped, so a mark is never a text's; one too many only costs a
  closer look.
- The terminal events are `response.completed`, `response.incomplete` and `response.failed`, by the `event:` line or by
  the data's own `type`.
- An unfinished event of more than `HELD_MAXIMUM` makes the stream `overlong`: it cannot be held, and must not pass.
"""

import re
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from meterproxy.proxy.meter import NO_CEILING, Reading, distinct, read_usage, text_of, there
from meterproxy.proxy.new_ids import OWN, Found, ids_of_items
from meterproxy.proxy.response_reading import (
    UNREADABLE,
    Item,
    Response,
    items_of,
    work_of,
)
from meterproxy.proxy.sse import EventSplitter, data_of, split_events
from meterproxy.proxy.texts import KeptEvents, TextPool
from meterproxy.proxy.usage_shapes import Ceiling

HELD_MAXIMUM: Final = 16 << 20
TERMINAL: Final = frozenset({"response.completed", "response.incomplete", "response.failed"})
ITEMS_KEPT: Final = 1024
"""Items of a stream whose end has not come that are kept to be counted."""

_HINTS: Final = (
    b"response.c",
    b"response.in",
    b"response.queued",
    b"response.failed",
    b"output_item.",
    b"error",
    b"\\u00",
)
"""Bytes of which every event that matters has one; most of those that do not have none."""
_MARK: Final = re.compile(
    rb'(?:"type"[ ]?:[ ]?"|event:[ ]?)(?:error|response\.(?:created|queued|in_progress|completed|incomplete|failed'
    rb'|output_item\.(?:added|done)))|"error"[ ]?:[ ]?\{|\\u00[2-7]'
)
_NAME: Final = re.compile(rb"(?:\A|[\r\n])event:[ ]?([^\r\n]*)")
_DELTA: Final = re.compile(rb'"delta"[ ]?:[ ]?"([^"\\\r\n]*+(?:\\.[^"\\\r\n]*+)*+)"')
_AUDIO: Final = b"audio.delta"


class _Event(msgspec.Struct):
    type: Any = None
    response: msgspec.Raw = msgspec.Raw()
    item: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()


_EVENT: Final = msgspec.json.Decoder(_Event)
_RESPONSE: Final = msgspec.json.Decoder(Response)
_ITEM: Final = msgspec.json.Decoder(Item)
_STRING: Final = msgspec.json.Decoder(str)


def read_response(operation: str, body: bytes, ceiling: Ceiling = NO_CEILING) -> Reading:
    """Read a plain answer (JSON); never raises."""
    response = _response(body)
    return Reading() if response is None else _reading(operation, response, ceiling)


class ResponseMeter:
    """Reads one stream and says what of it goes on; in `StreamMeter`'s place, with the same face."""

    __slots__ = (
        "_items",
        "_kept",
        "_new_ids",
        "_operation",
        "_own_id",
        "_response",
        "_splitter",
        "events",
        "failed",
        "finished",
        "overlong",
        "running",
        "terminal",
    )

    def __init__(self, operation: str, pool: TextPool) -> None:
        self._operation = operation
        self._splitter = EventSplitter()
        self._kept = KeptEvents(pool)
        self._response: Response | None = None
        self._items: list[Item] = []
        self._new_ids: list[Found] = []
        self._own_id: str | None = None
        self.events = 0
        """Pieces of text so far: about the tokens that were delivered."""
        self.finished = False
        """Whether the terminal event was seen."""
        self.failed = False
        """Whether the response failed, or an error event was seen."""
        self.running = False
        """Whether what was seen last of the response says that it is still being worked on."""
        self.overlong = False
        self.terminal = b""
        """The terminal event and what came with it: it goes after what `feed` returned, when the ending is written."""

    @property
    def done(self) -> bool:
        """Whether the terminal event was seen."""
        return self.finished

    @property
    def has_usage(self) -> bool:
        """Whether a usage object was seen."""
        return self._response is not None and bytes(self._response.usage).startswith(b"{")

    @property
    def own_id(self) -> str | None:
        """The response's id, once it was seen."""
        return self._own_id

    def feed(self, chunk: bytes) -> bytes:
        """Read a chunk as it came from the provider; returns the events that may be forwarded now."""
        if self.finished:
            return chunk
        events = self._splitter.feed(chunk)
        self.overlong = self._splitter.held_bytes > HELD_MAXIMUM
        if not events:
            return b""
        for hint in _HINTS:
            if events.find(hint) >= 0:
                return self._look_closely(events)
        self._keep(events)
        return events

    def finish(self) -> bytes:
        """Read what is left at the stream's end, an event without its empty line; returns it."""
        rest = self._splitter.finish()
        if rest and not self.finished:
            self._read_event(rest)
        return rest

    def new_ids(self) -> list[Found]:
        """Ids that were not told yet: they must be written down before what `feed` has returned goes on."""
        found, self._new_ids = self._new_ids, []
        return found

    def reading(self, ceiling: Ceiling = NO_CEILING) -> Reading:
        """What the stream has said so far."""
        if self._response is None:
            return Reading(failed=self.failed)
        reading = _reading(self._operation, self._response, ceiling)
        if not self.finished:
            work = work_of(self._items)
            reading = replace(
                reading, tools=distinct(work.tools), web_searches=work.web_searches, file_searches=work.file_searches
            )
        return replace(reading, failed=self.failed)

    def texts(self) -> tuple[list[str], int]:
        """What the answer has said so far, and how many bytes of it found no room."""
        kept, dropped_bytes = self._kept.kept()
        try:
            text = _STRING.decode(b'"' + kept + b'"')
        except UNREADABLE:
            text = kept.decode("utf-8", "replace")
        return ([text] if text else []), dropped_bytes

    def output(self) -> bytes:
        """What the response that was seen last has put out, in the shape of a plain answer."""
        return b"" if self._response is None else b'{"output":%b}' % bytes(self._response.output)

    def close(self) -> None:
        """Give back the memory of what was kept."""
        self._kept.close()

    def _keep(self, events: bytes) -> None:
        """Count and keep the pieces of text of ordinary events."""
        if events.find(_AUDIO) >= 0:
            for event in split_events(events):
                if event.find(_AUDIO) < 0:
                    self._keep(event)
            return
        pieces = _DELTA.findall(events)
        if pieces:
            self.events += len(pieces)
            self._kept.add(None, b"".join(pieces))

    def _look_closely(self, events: bytes) -> bytes:
        position = 0
        for event in split_events(events):
            if _MARK.search(event) is None:
                self._keep(event)
            elif self._read_event(event):
                self.terminal = events[position:] + self._splitter.finish()
                return events[:position]
            position += len(event)
        return events

    def _read_event(self, event: bytes) -> bool:
        """Read one event; whether it is the terminal one."""
        data = _decoded(_EVENT, data_of(event))
        if data is None:
            return False
        named = _NAME.search(event)
        names = {data.type} if isinstance(data.type, str) else set()
        if named is not None:
            names.add(named[1].decode("latin-1").strip())
        response = _response(bytes(data.response)) if there(data.response) else None
        if response is not None:
            self._read_response(response)
        if there(data.item):
            self._read_item(bytes(data.item), done="response.output_item.done" in names)
        self.failed = self.failed or "error" in names or "response.failed" in names or there(data.error)
        self.finished = not names.isdisjoint(TERMINAL)
        if response is None and not there(data.item):
            self._keep(event)
        return self.finished

    def _read_response(self, response: Response) -> None:
        self._response = response
        self.running = response.running
        if self._own_id is None and isinstance(response.id, str):
            self._own_id = response.id
            self._new_ids.append(Found(OWN, response.id))
        self._new_ids += ids_of_items(items_of(bytes(response.output)))

    def _read_item(self, raw: bytes, *, done: bool) -> None:
        item = _decoded(_ITEM, raw)
        if item is not None:
            self._new_ids += ids_of_items([item])
            if done and len(self._items) < ITEMS_KEPT:
                self._items.append(item)


def _decoded(decoder: "msgspec.json.Decoder[Any]", raw: bytes) -> Any:
    try:
        return decoder.decode(raw)
    except UNREADABLE:
        return None


def _response(raw: bytes) -> Response | None:
    response: Response | None = _decoded(_RESPONSE, raw)
    return response


def _reading(operation: str, response: Response, ceiling: Ceiling) -> Reading:
    usage, raw_usage, flags = read_usage(operation, bytes(response.usage), ceiling)
    work = work_of(items_of(bytes(response.output)), bytes(response.tool_usage))
    if usage is not None:
        usage = usage._replace(web_searches=work.web_searches, file_searches=work.file_searches)
    return Reading(
        usage,
        raw_usage,
        text_of(response.model),
        text_of(response.service_tier),
        text_of(response.id),
        distinct(work.tools),
        flags,
        response.status == "failed" or there(response.error),
        work.web_searches,
        work.file_searches,
        response.running,
        response.background is False,
        response.status == "cancelled",
    )
