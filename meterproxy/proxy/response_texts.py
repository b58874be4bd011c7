"""Response texts: what a tokenizer counts of a responses request and of its answer, where the provider is silent.

Rules
-----
- Whatever a model has read or written counts: texts, refusals, summaries, calls and their outputs. Pictures and files
  do not; they are bounded elsewhere.
- What is JSON to the model too (tools, schemas) is counted as it was written; what cannot be read is counted whole.
"""

from collections.abc import Iterator
from typing import Any, Final

import msgspec
import orjson

from meterproxy.proxy.body import Members, without_surrogates

_MODEL_READS: Final = ("instructions", "tools", "text")


class _Part(msgspec.Struct):
    text: Any = None
    refusal: Any = None


class _Item(msgspec.Struct):
    content: str | list[_Part] | None = None
    summary: list[_Part] | None = None
    output: str | list[_Part] | _Part | None = None
    name: Any = None
    arguments: Any = None
    input: Any = None
    code: Any = None


class _Answer(msgspec.Struct):
    output: list[_Item] | None = None


_ITEMS: Final = msgspec.json.Decoder(list[_Item])
_ANSWER: Final = msgspec.json.Decoder(_Answer)
_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def response_request_texts(members: Members) -> Iterator[str]:
    """The texts that a model reads of a request."""
    raw = members.raw("input") or b""
    if raw.startswith(b"["):
        items = _items(raw)
        if items is None:
            yield members.written("input")
        else:
            yield from (text for item in items for text in _item_texts(item))
    elif raw.startswith(b'"'):
        text = _string(raw)
        yield members.written("input") if text is None else text
    for name in _MODEL_READS:
        if not members.absent(name):
            yield members.written(name)


def response_answer_texts(body: bytes) -> list[str]:
    """The texts of a plain answer; nothing where it has none or cannot be read."""
    for readable in (body, without_surrogates(body)):
        try:
            answer = _ANSWER.decode(readable)
        except _UNREADABLE:
            continue
        return [text for item in answer.output or () for text in _item_texts(item)]
    return []


def _items(raw: bytes) -> list[_Item] | None:
    for readable in (raw, without_surrogates(raw)):
        try:
            return _ITEMS.decode(readable)
        except _UNREADABLE:
            continue
    return None


def _item_texts(item: _Item) -> Iterator[str]:
    for value in (item.content, item.summary, item.output):
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            yield from (text for part in value for text in (part.text, part.refusal) if isinstance(text, str))
    yield from (text for text in (item.name, item.arguments, item.input, item.code) if isinstance(text, str))


def _string(raw: bytes) -> str | None:
    """A string's text, None where it cannot be read."""
    try:
        return str(orjson.loads(raw))
    except orjson.JSONDecodeError:
        return None
