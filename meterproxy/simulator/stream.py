"""Streams: an answer as server-sent events, as OpenAI sends them.

Pure: the whole stream is a tuple of events; how fast they go, and whether all of them do, is decided elsewhere.

Rules
-----
- With `include_usage` every event has `"usage": null` and one more event, with empty choices, has the usage.
- Without it no event has the member, unless a fault puts it beside the choices.
- Concatenated deltas are the plain answer.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest
from random import Random
from string import ascii_letters
from typing import Any, Final

import orjson

from meterproxy.errors import error_body
from meterproxy.simulator.answers import (
    Answer,
    Choice,
    audio_data,
    call_document,
    chat_logprobs,
    completion_logprobs,
)
from meterproxy.simulator.faults import Faults
from meterproxy.simulator.request import StreamOptions
from meterproxy.simulator.usage import ABSENT, Told

Chunk = dict[str, Any]

_NEWLINES: Final = {None: b"\n", "crlf": b"\r\n", "cr": b"\r"}
_GARBAGE: Final = (b'data: {"id": "chatcmpl-garb', b"data: \xff\xfe\x00garbage", b"data: [1, 2", b"nonsense: \xf0\x9f")
_OBFUSCATION: Final = range(4, 16)
_AUDIO_PIECE_TOKENS: Final = 4


def chat_events(answer: Answer, options: StreamOptions, told: Told, faults: Faults) -> tuple[bytes, ...]:
    """The events of a chat answer."""
    head = {**answer.head, "object": "chat.completion.chunk"}
    random = Random(str(answer.head["id"])) if options.include_obfuscation else None  # noqa: S311 - padding
    chunks = [{**head, "choices": [delta]} for delta in _interleaved(_chat_deltas, answer)]
    chunks = _with_usage(chunks, {**head, "choices": []}, options, told, faults)
    if random is not None:
        chunks = [{**chunk, "obfuscation": _padding(random)} for chunk in chunks]
    return _written(chunks, faults)


def completion_events(answer: Answer, options: StreamOptions, told: Told, faults: Faults) -> tuple[bytes, ...]:
    """The events of a completion answer."""
    chunks = [{**answer.head, "choices": [piece]} for piece in _interleaved(_completion_pieces, answer)]
    return _written(_with_usage(chunks, {**answer.head, "choices": []}, options, told, faults), faults)


def _interleaved(pieces: Callable[[Answer, Choice], Iterator[Chunk]], answer: Answer) -> Iterator[Chunk]:
    """The pieces of all choices in turn, as parallel generation gives them."""
    for turn in zip_longest(*(pieces(answer, choice) for choice in answer.choices)):
        yield from (piece for piece in turn if piece is not None)


def _chat_deltas(answer: Answer, choice: Choice) -> Iterator[Chunk]:
    def piece(delta: Chunk, finish: str | None = None, logprobs: Any = None) -> Chunk:
        return {"index": choice.index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}

    text = choice.content
    yield piece({"role": "assistant", "content": None if text is None or choice.audio_id else "", "refusal": None})
    if text is not None and choice.audio_id is None:
        for part in text.pieces:
            yield piece({"content": part}, logprobs=chat_logprobs(answer, (part,)))
    elif text is not None:
        yield from map(piece, _audio_deltas(answer, choice))
    for at, call in enumerate(choice.tool_calls):
        yield piece({"tool_calls": [{"index": at, **call_document(call, "")}]})
        for part in call.arguments.pieces:
            inner = {"custom": {"input": part}} if call.custom else {"function": {"arguments": part}}
            yield piece({"tool_calls": [{"index": at, **inner}]})
    yield piece({}, choice.finish)


def _audio_deltas(answer: Answer, choice: Choice) -> Iterator[Chunk]:
    assert choice.content is not None
    pieces = choice.content.pieces
    yield {"audio": {"id": choice.audio_id, "transcript": ""}}
    for at in range(0, len(pieces), _AUDIO_PIECE_TOKENS):
        spoken = pieces[at : at + _AUDIO_PIECE_TOKENS]
        yield {"audio": {"transcript": "".join(spoken)}}
        yield {"audio": {"data": audio_data(len(spoken))}}
    yield {"audio": {"expires_at": answer.expires_at}}


def _completion_pieces(answer: Answer, choice: Choice) -> Iterator[Chunk]:
    assert choice.content is not None
    offset = len(answer.echo[choice.index])
    if offset:
        yield {"text": answer.echo[choice.index], "index": choice.index, "logprobs": None, "finish_reason": None}
    for part in choice.content.pieces:
        logprobs = completion_logprobs(answer, (part,), offset)
        yield {"text": part, "index": choice.index, "logprobs": logprobs, "finish_reason": None}
        offset += len(part)
    yield {"text": "", "index": choice.index, "logprobs": None, "finish_reason": choice.finish}


def _with_usage(
    chunks: list[Chunk], empty: Mapping[str, Any], options: StreamOptions, told: Told, faults: Faults
) -> list[Chunk]:
    if told is ABSENT:
        return chunks
    if faults.usage_beside_choices:
        return [*chunks[:-1], {**chunks[-1], "usage": told}]
    if not options.include_usage:
        return chunks
    return [*({**chunk, "usage": None} for chunk in chunks), {**empty, "usage": told}]


def _padding(random: Random) -> str:
    return "".join(random.choices(ascii_letters, k=random.choice(_OBFUSCATION)))


# -- bytes --------------------------------------------------------------------------------------------------------


def _written(chunks: Sequence[Chunk], faults: Faults) -> tuple[bytes, ...]:
    """Write chunks as events, with what faults add and leave out."""
    lines = [b"data: " + orjson.dumps(chunk) for chunk in chunks]
    middle = len(lines) // 2
    lines[middle:middle] = _inserted(faults)
    if faults.empty_first:
        lines.insert(0, b"data: " + orjson.dumps(_azure_first(chunks[0])))
    if faults.error_event:
        lines = [*lines[: middle + 1], b"data: " + error_body("The server had an error.", "server_error", None, None)]
    elif not faults.no_done:
        lines.append(b"data: [DONE]")
    newline = _NEWLINES[faults.newline]
    comment = b": simulated" + newline if faults.comment else b""
    return tuple(comment + line + newline + newline for line in lines)


def _inserted(faults: Faults) -> list[bytes]:
    lines = list(_GARBAGE) if faults.garbage else []
    if faults.huge_line:
        frame = b'data: {"padding": "%b"}'
        lines.append(frame % (b"x" * max(faults.huge_line - len(frame) + 2, 0)))
    return lines


def _azure_first(chunk: Chunk) -> Chunk:
    filters = [{"prompt_index": 0, "content_filter_results": {}}]
    return {
        **{name: chunk[name] for name in ("id", "object", "created", "model")},
        "choices": [],
        "prompt_filter_results": filters,
    }
