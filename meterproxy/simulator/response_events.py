"""Response events: a response as the stream that OpenAI sends, each event numbered and named twice.

Pure: the whole stream is a tuple of events, from which a replay takes those after a number.
"""

from collections.abc import Iterator, Mapping
from random import Random
from string import ascii_letters
from typing import Any, Final

import orjson

from meterproxy.simulator.faults import Faults
from meterproxy.simulator.responses import Item, Made, begun

_NEWLINES: Final = {None: b"\n", "crlf": b"\r\n", "cr": b"\r"}
_GARBAGE: Final = (
    b'data: {"type": "response.garb',
    b"data: \xff\xfe\x00garbage",
    b"data: [1, 2",
    b"nonsense: \xf0\x9f",
)
_OBFUSCATION: Final = range(4, 16)
_BEGUN: Final[Mapping[str, Item]] = {
    "message": {"content": []},
    "function_call": {"arguments": ""},
    "custom_tool_call": {"input": ""},
}
_TERMINAL: Final = {status: f"response.{status}" for status in ("completed", "incomplete", "failed")}

Event = dict[str, Any]


def response_events(made: Made, *, background: bool, obfuscated: bool, faults: Faults) -> tuple[bytes, ...]:
    """The events of a response."""
    random = Random(str(made.document["id"])) if obfuscated else None  # noqa: S311 - padding
    events = [_padded(event, random) for event in _numbered(_all(made, background=background))]
    return _written(events, faults)


def _all(made: Made, *, background: bool) -> Iterator[Event]:
    first = "queued" if background else "in_progress"
    yield {"type": "response.created", "response": begun(made.document, first)}
    if background:
        yield {"type": "response.queued", "response": begun(made.document, first)}
    yield {"type": "response.in_progress", "response": begun(made.document, "in_progress")}
    for at, item in enumerate(made.document["output"]):
        yield from _item_events(item, at, made.pieces.get(item["id"], ()))
    yield {"type": _TERMINAL[made.document["status"]], "response": made.document}


def _item_events(item: Item, at: int, pieces: tuple[str, ...]) -> Iterator[Event]:
    open_ = {**item, **_BEGUN.get(item["type"], {}), **({"status": "in_progress"} if "status" in item else {})}
    place = {"item_id": item["id"], "output_index": at}
    yield {"type": "response.output_item.added", "output_index": at, "item": open_}
    match item["type"]:
        case "message":
            yield from _text_events(item, place, pieces)
        case "function_call":
            for piece in pieces:
                yield {"type": "response.function_call_arguments.delta", **place, "delta": piece}
            yield {
                "type": "response.function_call_arguments.done",
                **place,
                "name": item["name"],
                "arguments": item["arguments"],
            }
        case "custom_tool_call":
            for piece in pieces:
                yield {"type": "response.custom_tool_call_input.delta", **place, "delta": piece}
            yield {"type": "response.custom_tool_call_input.done", **place, "input": item["input"]}
        case "web_search_call" | "file_search_call":
            for phase in ("in_progress", "searching", "completed"):
                yield {"type": f"response.{item['type']}.{phase}", **place}
    yield {"type": "response.output_item.done", "output_index": at, "item": item}


def _text_events(item: Item, place: Event, pieces: tuple[str, ...]) -> Iterator[Event]:
    [part] = item["content"]
    place = {**place, "content_index": 0}
    yield {"type": "response.content_part.added", **place, "part": {**part, "text": ""}}
    for piece in pieces:
        yield {"type": "response.output_text.delta", **place, "delta": piece, "logprobs": []}
    yield {"type": "response.output_text.done", **place, "text": part["text"], "logprobs": []}
    yield {"type": "response.content_part.done", **place, "part": part}


def _numbered(events: Iterator[Event]) -> Iterator[Event]:
    for number, event in enumerate(events):
        yield {**event, "sequence_number": number}


def _padded(event: Event, random: Random | None) -> Event:
    if random is None or not event["type"].endswith(".delta"):
        return event
    return {**event, "obfuscation": "".join(random.choices(ascii_letters, k=random.choice(_OBFUSCATION)))}


def _written(events: list[Event], faults: Faults) -> tuple[bytes, ...]:
    """Write events, with what faults add and leave out."""
    newline = _NEWLINES[faults.newline]
    lines = [b"event: %b%bdata: %b" % (event["type"].encode(), newline, orjson.dumps(event)) for event in events]
    middle = len(lines) // 2
    if faults.error_event:
        error = {"type": "error", "code": "server_error", "message": "The server had an error.", "param": None}
        lines = [*lines[:middle], b"event: error" + newline + b"data: " + orjson.dumps(error)]
    elif faults.no_done:
        lines.pop()
    if faults.garbage:
        lines[middle:middle] = _GARBAGE
    if faults.huge_line:
        lines.insert(middle, b'data: {"type": "response.padding", "padding": "%b"}' % (b"x" * faults.huge_line))
    comment = b": simulated" + newline if faults.comment else b""
    return tuple(comment + line + newline + newline for line in lines)
