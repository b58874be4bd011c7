"""Exchanges: the fixed bytes that load sends and the mock provider answers, so that nobody computes anything."""

import json
from typing import Any, Final

MODEL: Final = "gpt-4o-mini"
ANSWER_TOKENS: Final = 64
STREAM_EVENTS: Final = 64
"""Events with text in one stream; a first, a last and a usage event come on top."""
HOLD_MARKER: Final = b"bench-hold-open"
"""A stream asked for with this text gets its first event and then nothing until the client leaves."""

_WORDS: Final = "the quiet river turns under an old stone bridge and slowly waits for the evening train".split()
_TEXT: Final = " ".join(_WORDS * 4)
_HEAD: Final[dict[str, Any]] = {
    "id": "chatcmpl-benchbenchbenchbenchbenchbe",
    "created": 1_700_000_000,
    "model": "gpt-4o-mini-2024-07-18",
    "service_tier": "default",
    "system_fingerprint": "fp_0123456789",
}
_USAGE: Final[dict[str, Any]] = {
    "prompt_tokens": 72,
    "completion_tokens": ANSWER_TOKENS,
    "total_tokens": 72 + ANSWER_TOKENS,
    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
    "completion_tokens_details": {
        "reasoning_tokens": 0,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
}


def _compact(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


# -- what the provider answers ------------------------------------------------------------------------------------


def plain_answer() -> bytes:
    """A whole answer of 64 tokens, head included."""
    message: dict[str, Any] = {"role": "assistant", "content": _TEXT, "refusal": None, "annotations": []}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    body = _compact({**_HEAD, "object": "chat.completion", "choices": [choice], "usage": _USAGE})
    head = (
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nx-request-id: req_bench\r\n"
        f"openai-processing-ms: 1\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def stream_pieces(include_usage: bool) -> list[bytes]:
    """The pieces of a stream: head with the first event, one piece an event, the end with the last."""
    chunks = [_chunk({"role": "assistant", "content": "", "refusal": None}, None, include_usage)]
    words = (" " + _WORDS[at % len(_WORDS)] for at in range(STREAM_EVENTS))
    chunks += [_chunk({"content": word}, None, include_usage) for word in words]
    chunks.append(_chunk({}, "stop", include_usage))
    if include_usage:
        chunks.append({**_HEAD, "object": "chat.completion.chunk", "choices": [], "usage": _USAGE})
    events = [b"data: " + _compact(chunk) + b"\n\n" for chunk in chunks]
    pieces = [_chunked(event) for event in (*events[:-1], events[-1] + b"data: [DONE]\n\n")]
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nx-request-id: req_bench\r\n"
        b"openai-processing-ms: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    return [head + pieces[0], *pieces[1:-1], pieces[-1] + b"0\r\n\r\n"]


def _chunk(delta: dict[str, Any], finish: str | None, include_usage: bool) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    chunk = {**_HEAD, "object": "chat.completion.chunk", "choices": [choice]}
    return {**chunk, "usage": None} if include_usage else chunk


def _chunked(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


# -- what load sends ----------------------------------------------------------------------------------------------


def request_bytes(
    *, host: str, key: str, stream: bool, prompt_bytes: int = 0, filler: str = _TEXT, hold: bool = False
) -> bytes:
    """A chat request as OpenAI's SDK would send it; `prompt_bytes` pads the prompt to about that size."""
    text = f"Tell me about rivers. {HOLD_MARKER.decode() if hold else ''} " + _TEXT
    text += (" " + filler) * (max(prompt_bytes - len(text), 0) // (len(_compact(filler)) - 1))
    document: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": text}]}
    document |= {"max_tokens": ANSWER_TOKENS, **({"stream": True} if stream else {})}
    body = _compact(document)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nAccept: application/json\r\n"
        f"Content-Type: application/json\r\nUser-Agent: OpenAI/Python 3.52.0\r\nAuthorization: Bearer {key}\r\n"
        f"x-stainless-lang: python\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
