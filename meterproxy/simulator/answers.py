"""Answers: what the provider says, worked out once, then written as a plain object or as the events of a stream.

Pure: ids, time and what is cached come in as arguments. A stream and a plain answer to the same request differ in
form only, because both are written from the same `Answer`.

Rules
-----
- `completion_tokens` counts what was generated: visible text, the names and arguments of tool calls, reasoning and
  rejected predictions, over all choices (and over `best_of`).
- `max_tokens` bounds each choice, reasoning included.
"""

from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from meterproxy.simulator.faults import Faults
from meterproxy.simulator.instance import instance_of
from meterproxy.simulator.models import Model
from meterproxy.simulator.prompt import Prompt
from meterproxy.simulator.refusal import Refusal
from meterproxy.simulator.request import Document, stop_sequences
from meterproxy.simulator.text import Finish, Generated, prose, seed_of, tokenized, words
from meterproxy.simulator.vocabulary import count_tokens, vocabulary

_WANTED: Final = range(16, 64)
_COMPLETION_TOKENS: Final = 16
"""What `/v1/completions` generates at most when nothing is said."""
_REASONING_BY_EFFORT: Final[Mapping[str | None, int]] = {
    "none": 0,
    "minimal": 0,
    "low": 64,
    None: 128,
    "medium": 128,
    "high": 256,
    "xhigh": 512,
    "max": 1_024,
}
_TIERS: Final[Mapping[str | None, str]] = {"flex": "flex", "priority": "priority", "fast": "priority", "scale": "scale"}
_SEED_MEMBERS: Final = ("messages", "prompt", "input", "tools", "response_format")
_AUDIO_TOKENS_PER_TEXT_TOKEN: Final = 4
_AUDIO_BYTES: Final = bytes(range(0, 240, 10))
_AUDIO_LIFE_SECONDS: Final = 3_600
_BAD_NAME_SUFFIX: Final = rb"\u0000\ud800"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One tool called; `custom` tools take free text instead of JSON."""

    id: str
    name: Any
    arguments: Generated
    custom: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the `n` answers: text, spoken text, or tool calls."""

    index: int
    content: Generated | None
    finish: Finish
    tool_calls: tuple[ToolCall, ...] = ()
    audio_id: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """Everything an answer says; `head` is what all of its objects carry (id, created, model, …)."""

    head: Mapping[str, Any]
    choices: tuple[Choice, ...]
    usage: Mapping[str, Any]
    encoding: str
    logprobs: int | None = None
    echo: tuple[str, ...] = ()
    expires_at: int = 0


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a pure function cannot know: when, under which id, from which seed, and what was cached."""

    id: str
    created: int
    seed: int
    cached: int = 0
    faults: Faults = field(default_factory=Faults)


@dataclass(slots=True)
class _Spent:
    """Tokens generated so far, over all choices."""

    completion: int = 0
    reasoning: int = 0
    audio: int = 0
    rejected: int = 0


def chat_answer(document: Document, model: Model, prompt: Prompt, around: Circumstances) -> Answer:
    """Answer a chat request.

    Raises:
        Refusal: the model does not take what the request asks for, or its context is exceeded.
    """
    maximum = _chat_maximum(document, model, prompt)
    spent = _Spent()
    choices = tuple(
        _chat_choice(document, model, index, maximum, around, spent) for index in range(document.get("n") or 1)
    )
    return Answer(
        head=_chat_head(document, model, around),
        choices=choices,
        usage=_chat_usage(model, prompt, spent, around),
        encoding=model.encoding,
        logprobs=(document.get("top_logprobs") or 0) if document.get("logprobs") else None,
        expires_at=around.created + _AUDIO_LIFE_SECONDS,
    )


def completion_answer(document: Document, model: Model, prompts: list[list[int]], around: Circumstances) -> Answer:
    """Answer a completion request: `n` choices for each prompt, `best_of` of them generated."""
    wanted_maximum = document.get("max_tokens")
    maximum = _COMPLETION_TOKENS if wanted_maximum is None else wanted_maximum
    _check_context(model, max(map(len, prompts)) + maximum)
    count = document.get("n") or 1
    generated = max(count, document.get("best_of") or count)
    encoding = vocabulary(model.encoding)
    choices, echo, completion = [], [], 0
    for prompt_index, prompt in enumerate(prompts):
        for index in range(generated):
            text = _visible(document, model, prompt_index * generated + index, maximum, around)
            completion += text.tokens
            if index < count:
                choices.append(Choice(prompt_index * count + index, text, text.finish))
                echo.append(encoding.decode(prompt) if document.get("echo") else "")
    prompt_tokens = sum(map(len, prompts))
    return Answer(
        head=_head(model, around, "text_completion"),
        choices=tuple(choices),
        usage=_totals(prompt_tokens, completion),
        encoding=model.encoding,
        logprobs=document.get("logprobs"),
        echo=tuple(echo),
    )


# -- what is generated --------------------------------------------------------------------------------------------


def _chat_maximum(document: Document, model: Model, prompt: Prompt) -> int:
    if model.reasoning and document.get("max_tokens") is not None:
        raise Refusal(
            400,
            "Unsupported parameter: 'max_tokens' is not supported with this model. "
            "Use 'max_completion_tokens' instead.",
            param="max_tokens",
            code="unsupported_parameter",
        )
    named = document.get("max_completion_tokens") or document.get("max_tokens")
    if named is not None and named > model.max_output_tokens:
        raise Refusal(
            400,
            f"max_tokens is too large: {named}. This model supports at most {model.max_output_tokens} completion "
            f"tokens, whereas you provided {named}.",
            param="max_tokens",
            code="invalid_value",
        )
    _check_context(model, prompt.tokens)
    return min(named or model.max_output_tokens, model.context_tokens - prompt.tokens)


def _check_context(model: Model, tokens: int) -> None:
    if tokens > model.context_tokens:
        raise Refusal(
            400,
            f"This model's maximum context length is {model.context_tokens} tokens. However, your messages resulted in "
            f"{tokens} tokens. Please reduce the length of the messages.",
            param="messages",
            code="context_length_exceeded",
        )


def _chat_choice(
    document: Document, model: Model, index: int, maximum: int, around: Circumstances, spent: _Spent
) -> Choice:
    reasoning = min(_reasoning_tokens(document, model, around.faults), maximum)
    room = maximum - reasoning
    spent.reasoning += reasoning
    spent.completion += reasoning
    called = _tools_called(document, index, around)
    if called:
        calls = tuple(_tool_call(tool, model, index, at, around) for at, tool in enumerate(called))
        spent.completion += sum(count_tokens(model.encoding, tool_name(tool)) for tool in called)
        spent.completion += sum(call.arguments.tokens for call in calls)
        return Choice(index, None, _calls_finish(document), calls)
    text = _visible(document, model, index, room, around)
    rejected = _rejected(document, model)
    spent.rejected += rejected
    spent.completion += text.tokens + rejected
    if not _speaks(document, model):
        return Choice(index, text, text.finish)
    spoken = text.tokens * _AUDIO_TOKENS_PER_TEXT_TOKEN
    spent.audio += spoken
    spent.completion += spoken
    return Choice(index, text, text.finish, audio_id=f"audio_{seed_of(around.seed, index):016x}")


def _calls_finish(document: Document) -> Finish:
    """A tool the client chose by name ends with "stop", as with OpenAI; one the model chose with "tool_calls"."""
    return "stop" if isinstance(document.get("tool_choice"), dict) else "tool_calls"


def _reasoning_tokens(document: Document, model: Model, faults: Faults) -> int:
    if faults.reasoning is not None:
        return faults.reasoning
    return _REASONING_BY_EFFORT.get(document.get("reasoning_effort"), 0) if model.reasoning else 0


def _speaks(document: Document, model: Model) -> bool:
    return model.audio and "audio" in (document.get("modalities") or ())


def _rejected(document: Document, model: Model) -> int:
    """Tokens of a predicted output, none of which our prose ever is."""
    prediction = (document.get("prediction") or {}).get("content")
    parts = [prediction] if isinstance(prediction, str) else [part.get("text", "") for part in prediction or ()]
    return sum(count_tokens(model.encoding, part) for part in parts)


def _visible(document: Document, model: Model, index: int, room: int, around: Circumstances) -> Generated:
    seed = seed_of(around.seed, model.id, index, [document.get(name) for name in _SEED_MEMBERS])
    faults = around.faults
    wanted = faults.tokens if faults.tokens is not None else _WANTED[seed % len(_WANTED)]
    maximum = wanted if faults.ignore_maximum else room
    shape = document.get("response_format") or {}
    structured = _STRUCTURED.get(str(shape.get("type")))
    if structured is None:
        return prose(seed, wanted, maximum, stop_sequences(document), model.encoding)
    value = structured(shape, words(seed))
    return tokenized(orjson.dumps(value).decode(), maximum, model.encoding)


_STRUCTURED: Final[Mapping[str, Callable[[Mapping[str, Any], Iterator[str]], Any]]] = {
    "json_object": lambda _shape, source: {"answer": "".join(next(source) for _ in range(8))},
    "json_schema": lambda shape, source: instance_of((shape.get("json_schema") or {}).get("schema") or {}, source),
}


# -- tools --------------------------------------------------------------------------------------------------------


def _tools_called(document: Document, index: int, around: Circumstances) -> list[Mapping[str, Any]]:
    """The tools this answer calls: the one chosen, else one or two of those offered; none after a tool's result."""
    tools = document.get("tools") or []
    choice = document.get("tool_choice") or "auto"
    if not tools or choice == "none":
        return []
    if isinstance(choice, dict):
        return _chosen(choice, tools)
    if choice == "auto" and document["messages"][-1].get("role") == "tool":
        return []
    seed = seed_of(around.seed, index, tools)
    first = tools[seed % len(tools)]
    others = [tool for tool in tools if tool is not first]
    return [first, *others[:1]] if document.get("parallel_tool_calls") is not False else [first]


def _chosen(choice: Mapping[str, Any], tools: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    allowed = (choice.get("allowed_tools") or {}).get("tools") or [choice]
    names = [tool_name(tool) for tool in allowed]
    found = [tool for tool in tools if tool_name(tool) in names]
    if not found:
        raise Refusal(400, "Tool choice was not found in 'tools' parameter.", param="tool_choice")
    return found[:1]


def tool_name(tool: Mapping[str, Any]) -> str:
    """The name of a tool as offered or chosen."""
    return str((tool.get("function") or tool.get("custom") or {}).get("name"))


def _tool_call(tool: Mapping[str, Any], model: Model, index: int, at: int, around: Circumstances) -> ToolCall:
    seed = seed_of(around.seed, index, at, tool)
    custom = tool.get("type") == "custom"
    if custom:
        text = "".join(piece for piece, _ in zip(words(seed), range(6), strict=False))
    else:
        text = orjson.dumps(instance_of((tool.get("function") or {}).get("parameters") or {}, words(seed))).decode()
    name: Any = tool_name(tool)
    if around.faults.tool_name_nul:
        name = orjson.Fragment(orjson.dumps(name)[:-1] + _BAD_NAME_SUFFIX + b'"')
    return ToolCall(f"call_{seed:024x}", name, tokenized(text, model.max_output_tokens, model.encoding), custom)


# -- heads and usage ----------------------------------------------------------------------------------------------


def _head(model: Model, around: Circumstances, kind: str) -> dict[str, Any]:
    return {
        "id": around.id,
        "object": kind,
        "created": around.created,
        "model": around.faults.served_model or model.served_name,
    }


def _chat_head(document: Document, model: Model, around: Circumstances) -> dict[str, Any]:
    fingerprint = f"fp_{seed_of(model.id) & 0xFFFFFFFFFF:010x}" if model.fingerprint else None
    tier = around.faults.service_tier or _TIERS.get(document.get("service_tier"), "default")
    return {**_head(model, around, "chat.completion"), "service_tier": tier, "system_fingerprint": fingerprint}


def _totals(prompt: int, completion: int) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _chat_usage(model: Model, prompt: Prompt, spent: _Spent, around: Circumstances) -> dict[str, Any]:
    cached = around.cached if around.faults.cached is None else around.faults.cached
    details: dict[str, Any] = {"cached_tokens": cached, "audio_tokens": prompt.audio}
    if model.cache_write:
        details["cache_write_tokens"] = max(prompt.tokens - cached, 0) if prompt.tokens >= 1_024 else 0
    if prompt.images:
        details["image_tokens"] = prompt.images
    if model.audio:
        details["text_tokens"] = prompt.tokens - prompt.audio - prompt.images
    made: dict[str, Any] = {
        "reasoning_tokens": spent.reasoning,
        "audio_tokens": spent.audio,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": spent.rejected,
    }
    if model.audio:
        made["text_tokens"] = spent.completion - spent.audio - spent.reasoning - spent.rejected
    return {
        **_totals(prompt.tokens, spent.completion),
        "prompt_tokens_details": details,
        "completion_tokens_details": made,
    }


# -- plain objects ------------------------------------------------------------------------------------------------


def plain_chat(answer: Answer) -> dict[str, Any]:
    """The `chat.completion` object, usage apart."""
    return {**answer.head, "choices": [_plain_choice(answer, choice) for choice in answer.choices]}


def _plain_choice(answer: Answer, choice: Choice) -> dict[str, Any]:
    content = None if choice.content is None or choice.audio_id else choice.content.text
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if choice.tool_calls:
        message["tool_calls"] = [call_document(call, call.arguments.text) for call in choice.tool_calls]
    message |= {"refusal": None, "annotations": []}
    if choice.audio_id and choice.content is not None:
        message["audio"] = {
            "id": choice.audio_id,
            "data": audio_data(choice.content.tokens),
            "expires_at": answer.expires_at,
            "transcript": choice.content.text,
        }
    pieces = choice.content.pieces if choice.content is not None else ()
    return {
        "index": choice.index,
        "message": message,
        "logprobs": chat_logprobs(answer, pieces),
        "finish_reason": choice.finish,
    }


def call_document(call: ToolCall, arguments: str) -> dict[str, Any]:
    """A tool call with these arguments (in a stream, none at first)."""
    if call.custom:
        return {"id": call.id, "type": "custom", "custom": {"name": call.name, "input": arguments}}
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def audio_data(tokens: int) -> str:
    """Some PCM16 for a spoken text, in base64."""
    return b64encode(_AUDIO_BYTES * max(tokens, 1)).decode()


def chat_logprobs(answer: Answer, pieces: tuple[str, ...]) -> dict[str, Any] | None:
    """The log probabilities of these tokens, if the request asked for them."""
    if answer.logprobs is None:
        return None
    return {"content": [_logprob(piece, answer.logprobs) for piece in pieces], "refusal": None}


def _logprob(piece: str, alternatives: int) -> dict[str, Any]:
    itself = {"token": piece, "logprob": -0.25, "bytes": list(piece.encode())}
    others = [{"token": word, "logprob": -2.0 - at, "bytes": list(word.encode())} for at, word in _others(alternatives)]
    return {**itself, "top_logprobs": [itself, *others][:alternatives]}


def _others(alternatives: int) -> Iterator[tuple[int, str]]:
    return zip(range(alternatives - 1), words(0), strict=False)


def plain_completion(answer: Answer) -> dict[str, Any]:
    """The `text_completion` object, usage apart."""
    return {**answer.head, "choices": [_completion_choice(answer, choice) for choice in answer.choices]}


def _completion_choice(answer: Answer, choice: Choice) -> dict[str, Any]:
    assert choice.content is not None
    text = answer.echo[choice.index] + choice.content.text
    return {
        "text": text,
        "index": choice.index,
        "logprobs": completion_logprobs(answer, choice.content.pieces, len(answer.echo[choice.index])),
        "finish_reason": choice.finish,
    }


def completion_logprobs(answer: Answer, pieces: tuple[str, ...], offset: int) -> dict[str, Any] | None:
    """The log probabilities of these tokens, which begin at this character, if the request asked for them."""
    if answer.logprobs is None:
        return None
    offsets = [offset + sum(map(len, pieces[:at])) for at in range(len(pieces))]
    tops = [{piece: -0.25} for piece in pieces] if answer.logprobs else None
    return {
        "tokens": list(pieces),
        "token_logprobs": [-0.25] * len(pieces),
        "top_logprobs": tops,
        "text_offset": offsets,
    }
