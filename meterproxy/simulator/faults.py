"""Faults: everything that can be asked to go wrong, as one table.

A request asks by the header `X-Simulate: <list>` or by `[[simulate: <list>]]` anywhere in the text of its messages,
prompt or input (headers may be lost on the way). A list is `name` or `name=value`, joined by commas; a value that
begins with `{` is JSON and runs to its own closing brace. Both places are merged, the header wins.

`FAULTS` below is the reference: each name with the type of its value and what it does.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from meterproxy.simulator.refusal import Refusal


@dataclass(frozen=True, slots=True)
class Faults:
    """What one request asked to go wrong; the fields are the names of the table."""

    status: int | None = None
    code: str | None = None
    param: str | None = None
    retry_after: float | None = None
    reject_stream_options: bool = False
    delay: float = 0.0
    hang: bool = False
    drop: bool = False
    drop_reused: bool = False
    informational: int | None = None
    cut: int | None = None
    cut_rst: int | None = None
    truncate: bool = False
    after_end: bool = False
    close_delimited: bool = False
    slow: float = 0.0
    piece: int = 0
    content_type: str | None = None
    compress: str | None = None
    header: str | None = None
    tokens: int | None = None
    reasoning: int | None = None
    cached: int | None = None
    ignore_maximum: bool = False
    calls: int | None = None
    phases: int = 2
    failed: bool = False
    served_model: str | None = None
    service_tier: str | None = None
    tool_name_nul: bool = False
    no_usage: bool = False
    usage_null: bool = False
    usage_negative: bool = False
    usage_huge: bool = False
    usage_float: bool = False
    usage_beside_choices: bool = False
    usage: str | None = None
    garbage: bool = False
    huge_line: int = 0
    newline: str | None = None
    comment: bool = False
    empty_first: bool = False
    error_event: bool = False
    no_done: bool = False
    json_for_stream: bool = False


NONE: Final = Faults()


class Fault(NamedTuple):
    """A row of the table: how its value is read (None: it takes none) and what it does."""

    read: Callable[[str], Any] | None
    does: str


def _one_of(*allowed: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"one of {', '.join(allowed)}")
        return text

    return read


def _usage(text: str) -> str:
    json.loads(text)
    return text


FAULTS: Final[Mapping[str, Fault]] = {
    # instead of an answer
    "status": Fault(int, "answers with this status and OpenAI's error body for it"),
    "code": Fault(str, "with status: the error's code (and its words, for those that have some)"),
    "param": Fault(str, "with status: the error's param"),
    "retry_after": Fault(float, "with status: seconds in retry-after and retry-after-ms"),
    "reject_stream_options": Fault(None, "400 unknown_parameter if the request has stream_options"),
    # before the head
    "delay": Fault(float, "seconds to wait before the head"),
    "hang": Fault(None, "never answers; ends when the client leaves"),
    "drop": Fault(None, "closes the connection without an answer"),
    "drop_reused": Fault(None, "closes the connection without an answer if it carried a request before"),
    "informational": Fault(int, "sends this 1xx head before the answer"),
    # the body on the wire
    "cut": Fault(int, "closes the connection (FIN) after N events of a stream, N bytes of a plain body"),
    "cut_rst": Fault(int, "the same by RST"),
    "truncate": Fault(None, "promises 100 bytes more in Content-Length than it sends, then closes (plain answers)"),
    "after_end": Fault(None, "sends bytes after the end of the answer"),
    "close_delimited": Fault(None, "neither Content-Length nor chunks: the body ends with the connection"),
    "slow": Fault(float, "seconds between two events of a stream, two bytes of a plain body"),
    "piece": Fault(int, "writes the body in pieces of N bytes, each by itself"),
    "content_type": Fault(str, "the answer's Content-Type"),
    "compress": Fault(_one_of("gzip", "deflate"), "compresses the body whatever the client accepts"),
    "header": Fault(str, "one more response header, Name:Value"),
    # what the answer says
    "tokens": Fault(int, "exact number of visible output tokens of each choice (a maximum still cuts)"),
    "reasoning": Fault(int, "reasoning tokens of each choice, of any model"),
    "cached": Fault(int, "cached_tokens of the prompt"),
    "ignore_maximum": Fault(None, "generates beyond the request's maximum"),
    "calls": Fault(int, "calls of hosted tools in a response (a maximum still holds)"),
    "phases": Fault(int, "looks at a background response until it has ended"),
    "failed": Fault(None, "a response that fails, without usage"),
    "served_model": Fault(str, "the answer's model"),
    "service_tier": Fault(str, "the answer's service_tier"),
    "tool_name_nul": Fault(None, "a NUL and a lone surrogate, as escapes, in the names of tools called"),
    # usage
    "no_usage": Fault(None, "no usage at all"),
    "usage_null": Fault(None, "usage is null"),
    "usage_negative": Fault(None, "counts are negative"),
    "usage_huge": Fault(None, "counts are 2^64"),
    "usage_float": Fault(None, "counts have a fraction"),
    "usage_beside_choices": Fault(None, "usage in the last event that has choices, asked for or not"),
    "usage": Fault(_usage, "exactly this JSON value, byte for byte"),
    # streams
    "garbage": Fault(None, "invalid JSON and invalid UTF-8 as events in mid-stream"),
    "huge_line": Fault(int, "one event of N bytes in mid-stream"),
    "newline": Fault(_one_of("crlf", "cr"), "lines end in these bytes"),
    "comment": Fault(None, "a comment line before every event"),
    "empty_first": Fault(None, "a first event with empty choices and no usage, as Azure sends"),
    "error_event": Fault(None, "an error object as event in mid-stream, then the end without [DONE]"),
    "no_done": Fault(None, "ends without data: [DONE]"),
    "json_for_stream": Fault(None, "a plain JSON answer to stream: true"),
}

_MARKER: Final = re.compile(r"\[\[simulate:(.*?)\]\]", re.DOTALL)
_NAME: Final = re.compile(r"[\s,]*([a-z_]+)(=?)")
_DECODER: Final = json.JSONDecoder()


def read_faults(header: str | None, texts: Iterator[str]) -> Faults:
    """Read what a request asks for, in its texts and in its header.

    Raises:
        Refusal: an unknown name, or a value that its fault does not take.
    """
    found: dict[str, Any] = {}
    for text in texts:
        if "[[simulate:" in text:
            for marker in _MARKER.findall(text):
                found.update(_entries(marker))
    if header:
        found.update(_entries(header))
    return Faults(**found) if found else NONE


def _entries(listed: str) -> Iterator[tuple[str, Any]]:
    at = 0
    while rest := listed[at:].strip(" ,\t\r\n"):
        named = _NAME.match(listed, at)
        if named is None:
            raise _not_understood(rest)
        value, at = _value(listed, named.end()) if named[2] else (None, named.end())
        yield named[1], _read(named[1], value)


def _value(listed: str, at: int) -> tuple[str, int]:
    if listed.startswith("{", at):
        try:
            _, end = _DECODER.raw_decode(listed, at)
        except ValueError:
            raise _not_understood(listed[at:]) from None
        return listed[at:end], end
    end = listed.find(",", at)
    end = len(listed) if end < 0 else end
    return listed[at:end].strip(), end


def _read(name: str, value: str | None) -> Any:
    fault = FAULTS.get(name)
    if fault is None or (fault.read is None) != (value is None):
        raise _not_understood(name)
    if fault.read is None or value is None:
        return True
    try:
        return fault.read(value)
    except ValueError:
        raise _not_understood(f"{name}={value}") from None


def _not_understood(what: str) -> Refusal:
    return Refusal(400, f"The simulator knows no such fault: {what[:80]!r}", param="X-Simulate", code="unknown_fault")
