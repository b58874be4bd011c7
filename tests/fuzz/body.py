"""The body scanner against the strictest reader there is: Python's own, told of duplicates and of odd numbers."""

import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, NoReturn

from meterproxy.core.resource import RESPONSE
from meterproxy.errors import ApiError
from meterproxy.proxy import abridged, large_body
from meterproxy.proxy.accept import read_asked
from meterproxy.proxy.body import INTEGER_MAXIMUM, MEMBERS_MAXIMUM, TEXT_MAXIMUM, Members, scan
from meterproxy.proxy.endpoints import ENDPOINTS, Way
from meterproxy.proxy.mentions import CHAT_MARKS, Mention, mentions_of
from meterproxy.proxy.request_facts import read_facts
from meterproxy.proxy.request_texts import request_texts
from tests.proxy.hostile import ROWS
from tests.proxy.house import chat

WANTED = frozenset({"model", "max_tokens", "stream", "n", "stream_options", "messages"})
SEEDED = frozenset({"body", "chat", "completion", "embedding", "response", "conversation", "moderation"})
BRACKETS_MAXIMUM = 300
"""Deeper inputs are not compared: where readers give up differs."""
READING = tuple(endpoint for endpoint in ENDPOINTS if endpoint.members)
_SECRET = "mp-x"
NONCE = b"=~nonce~="
CHANGES = {"model": b'"x"', "max_tokens": b"7"}

SEEDS = (
    json.dumps(chat(stream=True, stream_options={"include_usage": None})).encode(),
    json.dumps(chat(n=2, tools=[{"type": "function", "function": {"name": "f"}}]), separators=(",", ":")).encode(),
    *(row.sent(_SECRET).partition(b"\r\n\r\n")[2] for row in ROWS if row.section in SEEDED and "×" not in row.wire),
)


class _Number(str):
    """A number as it is written."""

    __slots__ = ()


class _Pairs(NamedTuple):
    """An object's members in order, duplicates and all."""

    pairs: list[tuple[str, Any]]


def _refuse(_text: str) -> NoReturn:
    raise ValueError("not JSON")


_STRICT = json.JSONDecoder(
    object_pairs_hook=_Pairs, parse_int=_Number, parse_float=_Number, parse_constant=_refuse, strict=True
)


class Unclear(Exception):
    """The reference cannot say."""


def strict(body: bytes) -> list[tuple[str, Any]]:
    """The members of one JSON object.

    Raises:
        ValueError: anything else.
        Unclear: too deep, or a name that is not UTF-8 (the reference would take it for an escaped surrogate).
    """
    if body.count(b"[") + body.count(b"{") > BRACKETS_MAXIMUM:
        raise Unclear
    text = body.decode("utf-8", "surrogateescape").strip(" \t\r\n")
    document, end = _STRICT.raw_decode(text)
    if not isinstance(document, _Pairs) or end != len(text):
        raise ValueError("not one object")
    if any("\udc80" <= letter <= "\udcff" for name, _ in document.pairs for letter in name):
        raise Unclear
    return document.pairs


def acceptable(pairs: list[tuple[str, Any]]) -> bool:
    """Whether every member that is read can be read in one way only."""
    names = [name for name, _ in pairs if name.casefold() in WANTED]
    return len(pairs) <= MEMBERS_MAXIMUM and len(set(names)) == len(names) and WANTED.issuperset(names)


def check(data: bytes) -> None:
    """The scanner accepts what the reference does, finds the same members, and changes nothing but what it is told."""
    try:
        members = scan(data, WANTED)
    except ApiError:
        members = None
    _never_fails(data)
    same_in_steps(data, 16)
    try:
        pairs = strict(data)
        wanted = acceptable(pairs)
    except ValueError:
        pairs, wanted = [], False
    except Unclear:
        return
    assert (members is not None) == wanted, f"scanned: {members is not None}, strictly: {wanted}"
    if members is not None:
        _same_values(members, dict(pairs))
        _same_changes(members, pairs)


def _same_values(members: Members, values: dict[str, Any]) -> None:
    for name in WANTED:
        assert (name in members) == (name in values)
        if name not in values:
            assert members.absent(name)
            continue
        span, value = members.spans[name], values[name]
        assert members.body[span.start : span.end] == members.raw(name)
        raw = members.raw(name) or b""
        again, end = _STRICT.raw_decode(raw.decode("utf-8", "surrogateescape"))
        assert (again, end) == (value, len(raw.decode("utf-8", "surrogateescape")))
        assert _said(members.boolean, name) == _flag(value)
        assert _said(members.string, name) == _text(value, raw)
        assert _said(members.integer, name) == _integer(value)


def _said(reader: Any, name: str) -> Any:
    try:
        return reader(name)
    except ApiError:
        return ApiError


def _flag(value: Any) -> Any:
    return bool(value) if value is None or isinstance(value, bool) else ApiError


def _text(value: Any, raw: bytes) -> Any:
    if value is None:
        return None
    if not isinstance(value, str) or isinstance(value, _Number) or len(raw) > TEXT_MAXIMUM:
        return ApiError
    return ApiError if any("\ud800" <= letter <= "\udfff" for letter in value) else value


def _integer(value: Any) -> Any:
    if value is None:
        return None
    plain = isinstance(value, _Number) and value.isascii() and value.isdigit() and len(value) <= 10
    return int(value) if plain and int(value) <= INTEGER_MAXIMUM else ApiError


def _same_changes(members: Members, pairs: list[tuple[str, Any]]) -> None:
    """Replaced in place, appended behind, and nothing else is touched."""
    changed = strict(members.rewrite({"model": b'"x"', "max_tokens": b"7"}))
    told = {"model": "x", "max_tokens": _Number("7")}
    kept = [(name, told.get(name, value)) for name, value in pairs]
    added = [(name, value) for name, value in told.items() if name not in dict(pairs)]
    assert changed == kept + added


def _never_fails(body: bytes) -> None:
    """Whatever is read of a request at any endpoint raises nothing but what its client can be told."""
    for endpoint in READING:
        try:
            asked = read_asked(endpoint, body)
            mentions = mentions_of(asked.members, endpoint.mentions, endpoint.marks)
            if endpoint.way is Way.METERED:
                read_facts(endpoint.operation, asked.members, asked.model)
                finished(request_texts(endpoint.operation, asked.members))
        except ApiError:
            continue
        _mentioned(asked.members, mentions)


@contextmanager
def _small(step_bytes: int) -> Iterator[None]:
    """Steps and lengths so small that short inputs are large bodies."""
    kept = abridged.STEP_BYTES, abridged.LONGEST_BYTES, abridged.HEAD_BYTES, large_body.SMALL_BYTES
    abridged.STEP_BYTES, abridged.LONGEST_BYTES, abridged.HEAD_BYTES, large_body.SMALL_BYTES = step_bytes, 24, 12, 60
    try:
        yield
    finally:
        abridged.STEP_BYTES, abridged.LONGEST_BYTES, abridged.HEAD_BYTES, large_body.SMALL_BYTES = kept


def same_in_steps(body: bytes, step_bytes: int) -> None:
    """A body read in steps is refused or accepted as in one go, with the same members, lengths, changes and texts."""
    direct = _said(lambda name: scan(body, frozenset({*WANTED, name})), "input")
    with _small(step_bytes):
        stepped = _said(
            lambda name: finished(large_body.scanning(body, frozenset({*WANTED, name}), NONCE, (CHAT_MARKS,))), "input"
        )
        assert (stepped is ApiError) == (direct is ApiError)
        if direct is ApiError:
            return
        assert stepped.spans == direct.spans
        assert b"".join(stepped.to_send(CHANGES)) == direct.rewrite(CHANGES)
        for name in direct.spans:
            assert stepped.size(name) == direct.size(name) == stepped.length(stepped.raw(name) or b"")
            _same_contents(stepped, direct, name)
            if direct.size(name) > large_body.SMALL_BYTES:
                continue
            for reader in ("boolean", "integer", "string"):
                assert _said(getattr(stepped, reader), name) == _said(getattr(direct, reader), name)
        if b"\\ud" not in body.lower():  # half a pair is counted as it is written, in one go with all that is around it
            for operation in ("chat", "response", "embedding"):
                _same_texts(operation, stepped, direct)


def _same_contents(stepped: Members, direct: Members, name: str) -> None:
    """What was counted and looked for in steps is what one look at the whole member tells."""
    short, raw = stepped.raw(name) or b"", direct.raw(name) or b""
    if raw.startswith((b"[", b"{")):
        assert stepped.counts(name, short, len(short)) == direct.counts(name, raw, len(raw))
        assert stepped.finds(CHAT_MARKS, name, short) == direct.finds(CHAT_MARKS, name, short)


def _same_texts(operation: str, stepped: Members, direct: Members) -> None:
    texts, known_tokens = finished(request_texts(operation, stepped))
    whole, known = finished(request_texts(operation, direct))
    assert (len(texts), known_tokens) == (len(whole), known)
    assert "".join(finished(large_body.expanding(stepped, texts))) == "".join(whole)


def finished(work: "Generator[None, None, Any]") -> Any:
    """The result of work in steps."""
    while True:
        try:
            next(work)
        except StopIteration as done:
            return done.value


def _mentioned(members: Members, mentions: list[Mention]) -> None:
    """The one response that a request says it follows is never overlooked."""
    raw = members.raw("previous_response_id")
    if raw is not None and raw.startswith(b'"'):
        assert json.loads(raw) in {mention.id for mention in mentions if mention.kind == RESPONSE}
