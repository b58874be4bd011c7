"""Requests: what a client asked, checked as OpenAI checks it, in its own words when it is wrong."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson

from meterproxy.simulator.models import Model, Operation, find_model
from meterproxy.simulator.refusal import Refusal


class Member(NamedTuple):
    """What a member of a request may be; numbers within bounds."""

    types: tuple[type, ...]
    least: float | None = None
    most: float | None = None
    required: bool = False
    values: tuple[str, ...] = ()


_TEXT: Final = (str,)
_FLAG: Final = (bool,)
_INT: Final = (int,)
_NUMBER: Final = (int, float)
_LIST: Final = (list,)
_OBJECT: Final = (dict,)
_TEXT_OR_LIST: Final = (str, list)
_TEXT_OR_OBJECT: Final = (str, dict)

_SAMPLING: Final[Mapping[str, Member]] = {
    "model": Member(_TEXT, required=True),
    "frequency_penalty": Member(_NUMBER, -2, 2),
    "logit_bias": Member(_OBJECT),
    "max_tokens": Member(_INT, 1),
    "n": Member(_INT, 1, 128),
    "presence_penalty": Member(_NUMBER, -2, 2),
    "seed": Member(_INT),
    "stop": Member(_TEXT_OR_LIST),
    "stream": Member(_FLAG),
    "stream_options": Member(_OBJECT),
    "temperature": Member(_NUMBER, 0, 2),
    "top_p": Member(_NUMBER, 0, 1),
    "user": Member(_TEXT),
}
MEMBERS: Final[Mapping[Operation, Mapping[str, Member]]] = {
    "chat": {
        **_SAMPLING,
        "messages": Member(_LIST, required=True),
        "audio": Member(_OBJECT),
        "function_call": Member(_TEXT_OR_OBJECT),
        "functions": Member(_LIST),
        "logprobs": Member(_FLAG),
        "max_completion_tokens": Member(_INT, 1),
        "metadata": Member(_OBJECT),
        "modalities": Member(_LIST),
        "moderation": Member(_OBJECT),
        "parallel_tool_calls": Member(_FLAG),
        "prediction": Member(_OBJECT),
        "prompt_cache_key": Member(_TEXT),
        "prompt_cache_options": Member(_OBJECT),
        "prompt_cache_retention": Member(_TEXT),
        "reasoning_effort": Member(_TEXT, values=("none", "minimal", "low", "medium", "high", "xhigh", "max")),
        "response_format": Member(_OBJECT),
        "safety_identifier": Member(_TEXT),
        "service_tier": Member(_TEXT, values=("auto", "default", "flex", "scale", "priority", "fast")),
        "store": Member(_FLAG),
        "tool_choice": Member(_TEXT_OR_OBJECT),
        "tools": Member(_LIST),
        "top_logprobs": Member(_INT, 0, 20),
        "verbosity": Member(_TEXT, values=("low", "medium", "high")),
        "web_search_options": Member(_OBJECT),
    },
    "completion": {
        **_SAMPLING,
        "max_tokens": Member(_INT, 0),
        "prompt": Member(_TEXT_OR_LIST, required=True),
        "best_of": Member(_INT, 1, 20),
        "echo": Member(_FLAG),
        "logprobs": Member(_INT, 0, 5),
        "suffix": Member(_TEXT),
    },
    "embedding": {
        "model": Member(_TEXT, required=True),
        "input": Member(_TEXT_OR_LIST, required=True),
        "dimensions": Member(_INT, 1),
        "encoding_format": Member(_TEXT, values=("float", "base64")),
        "user": Member(_TEXT),
    },
    "response": {
        "model": Member(_TEXT, required=True),
        "background": Member(_FLAG),
        "context_management": Member(_LIST),
        "conversation": Member(_TEXT_OR_OBJECT),
        "include": Member(_LIST),
        "input": Member(_TEXT_OR_LIST, required=True),
        "instructions": Member(_TEXT),
        "max_output_tokens": Member(_INT, 16),
        "max_tool_calls": Member(_INT, 0),
        "metadata": Member(_OBJECT),
        "parallel_tool_calls": Member(_FLAG),
        "previous_response_id": Member(_TEXT),
        "prompt": Member(_OBJECT),
        "prompt_cache_key": Member(_TEXT),
        "prompt_cache_options": Member(_OBJECT),
        "prompt_cache_retention": Member(_TEXT),
        "reasoning": Member(_OBJECT),
        "safety_identifier": Member(_TEXT),
        "service_tier": Member(_TEXT, values=("auto", "default", "flex", "scale", "priority", "fast")),
        "store": Member(_FLAG),
        "stream": Member(_FLAG),
        "stream_options": Member(_OBJECT),
        "temperature": Member(_NUMBER, 0, 2),
        "text": Member(_OBJECT),
        "tool_choice": Member(_TEXT_OR_OBJECT),
        "tools": Member(_LIST),
        "top_logprobs": Member(_INT, 0, 20),
        "top_p": Member(_NUMBER, 0, 1),
        "truncation": Member(_TEXT, values=("auto", "disabled")),
        "user": Member(_TEXT),
    },
    "compaction": {
        "model": Member(_TEXT, required=True),
        "input": Member(_TEXT_OR_LIST),
        "instructions": Member(_TEXT),
        "previous_response_id": Member(_TEXT),
        "prompt_cache_key": Member(_TEXT),
        "service_tier": Member(_TEXT, values=("auto", "default", "fast", "flex", "priority")),
    },
    "moderation": {
        "model": Member(_TEXT),
        "input": Member(_TEXT_OR_LIST, required=True),
    },
}
_SERVED_AS: Final[Mapping[Operation, Operation]] = {"response": "chat", "compaction": "chat"}
"""Operations that models of another one serve as well."""
_NULL_REFUSED: Final = frozenset({"model", "messages", "input"})

_SPOKEN: Final[Mapping[type, str]] = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a decimal number",
    list: "an array",
    dict: "an object",
    type(None): "null",
}
_ELSEWHERE: Final[Mapping[tuple[Operation, Operation], str]] = {
    ("completion", "chat"): (
        "This is a chat model and not supported in the v1/completions endpoint. "
        "Did you mean to use v1/chat/completions?"
    ),
    ("chat", "completion"): (
        "This is not a chat model and thus not supported in the v1/chat/completions endpoint. "
        "Did you mean to use v1/completions?"
    ),
}

USUAL_MODERATION: Final = "omni-moderation-latest"
"""The model of moderations that name none; all other operations must."""

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """What `stream_options` asks for."""

    include_usage: bool = False
    include_obfuscation: bool = True


def read_document(body: bytes) -> dict[str, Any]:
    """Parse a body; lone surrogates, which orjson refuses, are accepted as OpenAI accepts them.

    Raises:
        Refusal: not a JSON object.
    """
    try:
        document = orjson.loads(body)
    except ValueError:
        document = _read_leniently(body)
    if not isinstance(document, dict):
        raise _unparsable()
    return document


def _read_leniently(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise _unparsable() from None


def _unparsable() -> Refusal:
    return Refusal(
        400,
        "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP library "
        "correctly. The OpenAI API expects a JSON payload, but what was sent was not valid JSON.)",
    )


def check(operation: Operation, document: Document) -> Model:
    """Check the members of a request and find its model.

    Raises:
        Refusal: a member is missing, unknown, of a wrong type or out of bounds; the model does not exist or does
            something else.
    """
    members = MEMBERS[operation]
    for name, member in members.items():
        _check_member(name, member, document)
    unknown = next((name for name in document if name not in members), None)
    if unknown is not None:
        raise Refusal(400, f"Unrecognized request argument supplied: {unknown}")
    if document.get("stream_options") is not None and not document.get("stream"):
        raise Refusal(
            400, "The 'stream_options' parameter is only allowed when 'stream' is enabled.", param="stream_options"
        )
    if operation in _SERVED_AS:
        _check_types("input", document.get("input"))
    return _model(_SERVED_AS.get(operation, operation), document.get("model") or USUAL_MODERATION)


def _check_member(name: str, member: Member, document: Document) -> None:
    if name not in document or (document[name] is None and name not in _NULL_REFUSED):
        if member.required:
            raise Refusal(400, f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")
        return
    value = document[name]
    if not isinstance(value, member.types) or (isinstance(value, bool) and bool not in member.types):
        raise wrong_type(name, member.types, value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        _check_bounds(name, member, value)
    if member.values and value not in member.values:
        listed = ", ".join(f"'{allowed}'" for allowed in member.values)
        message = f"Invalid value: '{value}'. Supported values are: {listed}."
        raise Refusal(400, message, param=name, code="invalid_value")


def wrong_type(name: str, types: tuple[type, ...], value: Any) -> Refusal:
    """The refusal of a value that has none of the types."""
    expected = " or ".join(_SPOKEN[allowed] for allowed in types)
    message = f"Invalid type for '{name}': expected {expected}, but got {_SPOKEN[type(value)]} instead."
    return Refusal(400, message, param=name, code="invalid_type")


def _check_types(name: str, entries: Any) -> None:
    """Refuse items, and parts of their contents, whose type is no text."""
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict):
            kind = entry.get("type")
            if kind is not None and not isinstance(kind, str):
                raise wrong_type(f"{name}.type", (str,), kind)
            _check_types(f"{name}.content", entry.get("content"))


def _check_bounds(name: str, member: Member, value: float) -> None:
    kind = "integer" if isinstance(value, int) else "decimal"
    for bound, outside, side, sign in (
        (member.least, member.least is not None and value < member.least, "below minimum", ">="),
        (member.most, member.most is not None and value > member.most, "above maximum", "<="),
    ):
        if outside:
            message = (
                f"Invalid '{name}': {kind} {side} value. Expected a value {sign} {bound}, but got {value} instead."
            )
            raise Refusal(400, message, param=name, code=f"{kind}_{side.replace(' ', '_')}_value")


def _model(operation: Operation, name: str) -> Model:
    model = find_model(name)
    if model is None:
        message = f"The model `{name}` does not exist or you do not have access to it."
        raise Refusal(404, message, code="model_not_found")
    if model.operation != operation:
        elsewhere = _ELSEWHERE.get((operation, model.operation))
        if elsewhere is not None:
            raise Refusal(404, elsewhere, param="model")
        raise Refusal(403, f"You are not allowed to use the model {name} for this.", code="model_not_supported")
    return model


def stream_options(document: Document) -> StreamOptions | None:
    """The stream a request asks for; None if it asks for a plain answer."""
    if not document.get("stream"):
        return None
    options = document.get("stream_options") or {}
    return StreamOptions(options.get("include_usage") is True, options.get("include_obfuscation") is not False)


def stop_sequences(document: Document) -> tuple[str, ...]:
    """The texts at which an answer ends."""
    stop = document.get("stop")
    return (stop,) if isinstance(stop, str) else tuple(stop or ())


def texts(document: Document) -> Iterator[str]:
    """Every text a request carries in its messages, prompt or input."""
    for name in ("messages", "prompt", "input"):
        yield from _strings(document.get(name))


def _strings(value: Any) -> Iterator[str]:
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, list):
            pending.extend(entry for entry in reversed(item) if not isinstance(entry, int))
        elif isinstance(item, dict):
            pending.extend(item[name] for name in ("text", "content") if name in item)
