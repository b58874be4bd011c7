"""The reader and editor of event streams: whole against cut, and against an editor that is slow and plain."""

import json
import re
from typing import Any, NamedTuple, NoReturn

from meterproxy.proxy.meters import meter_of
from meterproxy.proxy.sse import DoneFinder, StreamEditor
from meterproxy.proxy.texts import TextPool
from tests.fuzz.pieces import put_together, taken_apart, ways
from tests.proxy.provider_streams import STREAMS
from tests.proxy.test_response_meter import stream as response_stream
from tests.proxy.test_sse import EVENTS

SEEDS = tuple(
    put_together(stream.replace(b"\n", newline), (3, 100))
    for newline in (b"\n", b"\r\n", b"\r")
    for stream in (
        *(told.asked[-1200:] for told in STREAMS.values()),
        *(sent for sent, _ in EVENTS),
        response_stream(),
    )
)
Told = tuple[Any, ...]
_DONE = re.compile(rb"data: ?\[DONE\]")
_LINE = re.compile(rb"([^\r\n]*)(\r\n|\n|\r|\Z)")


class Unclear(Exception):
    """The plain editor cannot say: the event is no JSON, or its members can be read in two ways."""


class _Line(NamedTuple):
    text: bytes
    end: bytes


class _Member(NamedTuple):
    name: str
    key_start: int
    value_start: int
    value_end: int


def lines(stream: bytes) -> list[_Line]:
    return [_Line(*line.groups()) for line in _LINE.finditer(stream) if line[0]]


def plainly_edited(stream: bytes) -> bytes:
    """The stream without the usage that only our option brought, worked out line by line."""
    out: list[bytes] = []
    event: list[_Line] = []
    for line in lines(stream):
        if line.text:
            event.append(line)
        elif event:
            kept = _event(event)
            out += [kept, line.end] if kept else []
            event = []
        else:
            out.append(line.end)
    return b"".join([*out, _event(event)])


def _event(event: list[_Line]) -> bytes:
    """What stays of an event's lines; nothing where it goes."""
    whole = b"".join(line.text + line.end for line in event)
    if b'"usage"' not in whole:
        return whole
    places = [place for place, line in enumerate(event) if _value_start(line.text) >= 0]
    data = b"\n".join(event[place].text[_value_start(event[place].text) :] for place in places)
    members = _members(data)
    usage = _value(data, members, "usage")
    if usage is None:
        return whole
    if usage.startswith(b"{"):
        choices = _value(data, members, "choices") or b""
        return b"" if re.fullmatch(rb"\[[ \t\r\n]*\]", choices) else whole
    if usage != b"null" or len(places) != 1:
        return whole
    line = event[places[0]]
    edited = line.text[: _value_start(line.text)] + _without_usage(data, members)
    return b"".join(edited + each.end if each is line else each.text + each.end for each in event)


def _value_start(line: bytes) -> int:
    """Where a `data` line's value begins; -1 for other lines."""
    start = 3 if line.startswith(b"\xef\xbb\xbf") else 0
    if line[start:] == b"data":
        return len(line)
    if not line.startswith(b"data:", start):
        return -1
    return start + 6 if line.startswith(b" ", start + 5) else start + 5


def _refuse(_text: str) -> NoReturn:
    raise ValueError("not JSON")


_JSON = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_refuse)


def _members(data: bytes) -> list[_Member]:
    """The top-level members of a JSON object, by byte."""
    try:
        members = _scan(data.decode("latin-1"))
    except (ValueError, IndexError, RecursionError):
        raise Unclear from None
    names = [member.name.encode("latin-1", "replace").decode("utf-8", "replace").casefold() for member in members]
    read = [name for name in names if name in {"usage", "choices"}]
    if len(set(read)) < len(read) or any("\ufffd" in name for name in names) or len(members) > 1000:
        raise Unclear
    if any(member.name != name for member, name in zip(members, names, strict=True) if name in read):
        raise Unclear
    return members


def _scan(text: str) -> list[_Member]:
    at, members = _blank(text, 0), []
    if text[at] != "{":
        raise ValueError("no object")
    at = _blank(text, at + 1)
    while text[at] != "}" or members:
        if text[at] != '"':
            raise ValueError("no name")
        name, behind = json.decoder.scanstring(text, at + 1, True)
        colon = _blank(text, behind)
        if text[colon] != ":":
            raise ValueError("no colon")
        start = _blank(text, colon + 1)
        _, end = _JSON.raw_decode(text, start)
        members.append(_Member(name, at, start, end))
        at = _blank(text, end)
        if text[at] == "}":
            break
        if text[at] != ",":
            raise ValueError("no comma")
        at = _blank(text, at + 1)
    if _blank(text, at + 1) != len(text):
        raise ValueError("more behind")
    return members


def _blank(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _value(data: bytes, members: list[_Member], name: str) -> bytes | None:
    return next((data[member.value_start : member.value_end] for member in members if member.name == name), None)


def _without_usage(data: bytes, members: list[_Member]) -> bytes:
    place = next(place for place, member in enumerate(members) if member.name == "usage")
    if place:
        return data[: members[place - 1].value_end] + data[members[place].value_end :]
    behind = members[1].key_start if len(members) > 1 else members[0].value_end
    return data[: members[0].key_start] + data[behind:]


def edited(pieces: list[bytes]) -> bytes:
    editor = StreamEditor()
    return b"".join([*map(editor.feed, pieces), editor.finish()])


def metered(pieces: list[bytes], operation: str = "chat", *, editing: bool = False, holding: bool = False) -> Told:
    """What a meter forwards and says of a stream."""
    meter = meter_of(operation, TextPool(), editing=editing, holding=holding)
    out = []
    for piece in pieces:
        seen = meter.done
        out.append(meter.feed(piece))
        if meter.done and not seen:
            out.append(meter.terminal)
    out.append(meter.finish())
    texts = meter.texts()
    meter.close()
    return b"".join(out), meter.reading(), texts, meter.events, meter.finished, meter.failed, meter.new_ids()


def before_the_end(pieces: list[bytes]) -> bytes:
    """What a client has before the ending is written."""
    meter = meter_of("chat", TextPool(), editing=False, holding=False)
    out = b""
    for piece in pieces:
        out += meter.feed(piece)
        if meter.done:
            break
    meter.close()
    return out


def ended_at(pieces: list[bytes]) -> bool:
    finder = DoneFinder()
    for piece in pieces:
        finder.feed(piece)
    return finder.found


def check(data: bytes) -> None:
    """Cuts change nothing; what goes on is what the plain editor gives, or every byte where nothing is edited."""
    places, stream = taken_apart(data)
    whole, plain, read = edited([stream]), metered([stream]), metered([stream], editing=True)
    held, response = metered([stream], holding=True), metered([stream], "response")
    assert plain[0] == held[0] == response[0] == stream
    assert read[0] == whole, "the meter edits otherwise than the editor"
    assert plain[1:] == read[1:] == held[1:]
    done = any(_DONE.match(line.text) for line in lines(stream))
    assert ended_at([stream]) == done
    for pieces in ways(stream, places):
        assert edited(pieces) == whole
        assert metered(pieces, editing=True) == read
        assert metered(pieces) == plain
        assert metered(pieces, holding=True) == held
        assert metered(pieces, "response") == response
        assert ended_at(pieces) == done
        assert not any(_DONE.match(line.text) for line in lines(before_the_end(pieces)))
    try:
        wanted = plainly_edited(stream)
    except Unclear:
        return
    assert whole == wanted, f"plainly {wanted!r}, edited {whole!r}"
