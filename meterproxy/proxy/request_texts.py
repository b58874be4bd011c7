"""Request texts: what a tokenizer counts of a request, where its bytes are too rough a bound or the provider is silent.

Rules
-----
- Each text stands for itself: tokens do not reach from one message into the next.
- What is JSON to the model too (tools, schemas) is counted as it was written.
- Ids of tokens are counted by what separates them: none is built.
- What cannot be read as texts is counted whole, as it stands in the body: more, never less.
"""

import re
from collections.abc import Generator, Iterator
from itertools import islice
from typing import Any, Final

import msgspec
import orjson

from meterproxy.proxy.body import Members, without_surrogates
from meterproxy.proxy.response_texts import response_request_texts

_EMPTY: Final = re.compile(rb"\[\s*\]")
TEXTS_STEP: Final = 4096
"""Texts that are gathered in one step, a millisecond or two."""
_MODEL_READS: Final = ("tools", "functions", "response_format")


class _Part(msgspec.Struct):
    text: Any = None
    refusal: Any = None


class _Function(msgspec.Struct):
    name: Any = None
    arguments: Any = None


class _Call(msgspec.Struct):
    function: _Function | None = None
    custom: _Function | None = None


class _Message(msgspec.Struct):
    content: str | list[_Part] | None = None
    refusal: Any = None
    reasoning_content: Any = None
    name: Any = None
    tool_calls: list[_Call] | None = None
    function_call: _Function | None = None


_MESSAGES: Final = msgspec.json.Decoder(list[_Message])


def request_texts(operation: str, members: Members) -> Generator[None, None, tuple[list[str], int]]:
    """The texts of a request, and how many tokens it brings as ids; found in steps."""
    if operation == "chat":
        texts = yield from _gathered(_chat_texts(members))
        return list(filter(None, texts)), 0
    if operation == "response":
        texts = yield from _gathered(response_request_texts(members))
        return texts, 0
    texts = []
    known_tokens = 0
    for name in ("prompt", "input", "suffix"):
        raw = members.raw(name)
        if raw is not None:
            more, ids = _prompt_texts(members, name, raw)
            texts += more
            known_tokens += ids
    return texts, known_tokens


def _gathered(source: Iterator[str]) -> Generator[None, None, list[str]]:
    texts: list[str] = []
    while True:
        found = list(islice(source, TEXTS_STEP))
        texts += found
        if len(found) < TEXTS_STEP:
            return texts
        yield


def _chat_texts(members: Members) -> Iterator[str]:
    """The texts, and empty ones where a part has none."""
    raw = members.raw("messages") or b"[]"
    messages = _messages(raw)
    if messages is None:
        yield members.written("messages")
    else:
        for message in messages:
            yield from _message_texts(message)
    for name in _MODEL_READS:
        if not members.absent(name):
            yield members.written(name)


def _messages(raw: bytes) -> list[_Message] | None:
    """The messages, lone surrogates in them or not; None where they are not as we know them."""
    for readable in (raw, without_surrogates(raw)):
        try:
            return _MESSAGES.decode(readable)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue
    return None


def _message_texts(message: _Message) -> Iterator[str]:
    if isinstance(message.content, list):
        for part in message.content:
            yield from _strings(part.text, part.refusal)
            yield ""
    else:
        yield from _strings(message.content)
    yield from _strings(message.refusal, message.reasoning_content, message.name)
    calls = [function for call in message.tool_calls or () for function in (call.function, call.custom)]
    for function in (*calls, message.function_call):
        if function is not None:
            yield from _strings(function.name, function.arguments)


def _strings(*values: object) -> Iterator[str]:
    return (value for value in values if isinstance(value, str))


def _prompt_texts(members: Members, name: str, raw: bytes) -> tuple[list[str], int]:
    """A text, texts, token ids, or lists of token ids."""
    if raw.startswith(b"["):
        held = members.counts(name, raw, 0)
        if not held.strings:
            return [], held.commas + (not _EMPTY.fullmatch(raw))
    elif not raw.startswith(b'"'):
        return [members.written(name)], 0
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return [members.written(name)], 0
    items = value if isinstance(value, list) else [value]
    texts = [item for item in items if isinstance(item, str)]
    return texts, sum(len(item) if isinstance(item, list) else 1 for item in items if not isinstance(item, str))
