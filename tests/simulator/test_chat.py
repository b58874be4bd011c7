"""Chat through the real SDK: shapes, counts, and streams that equal plain answers."""

import json
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionChunk
from pydantic import BaseModel

from meterproxy.simulator.vocabulary import count_tokens

ASK: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is <|endoftext|>?"}]
LONG: list[Any] = [{"role": "user", "content": "tell me about rivers and bridges " * 300}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["C", "F"]}},
            "required": ["city", "unit"],
        },
    },
}
OTHER: Any = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}
CUSTOM: Any = {"type": "custom", "custom": {"name": "write_code"}}
FUNCTION_CHOICE: Any = {"type": "function", "function": {"name": "get_time"}}
SHAPES: list[dict[str, Any]] = [
    {"model": "gpt-4o"},
    {"model": "gpt-3.5-turbo"},
    {"model": "gpt-4o-mini", "max_tokens": 9},
    {"model": "gpt-4.1", "n": 3},
    {"model": "o3", "max_completion_tokens": 140},
    {"model": "gpt-5-mini", "max_completion_tokens": 100},
    {"model": "gpt-5", "reasoning_effort": "minimal"},
    {"model": "gpt-4o", "stop": [" the", "."]},
    {"model": "gpt-4o", "tools": [TOOL, OTHER]},
    {"model": "gpt-4o", "tools": [TOOL, OTHER], "tool_choice": FUNCTION_CHOICE},
    {"model": "gpt-5", "tools": [CUSTOM], "tool_choice": "required"},
    {"model": "gpt-4o", "tools": [TOOL], "tool_choice": "none"},
    {"model": "gpt-4o", "response_format": {"type": "json_object"}},
    {"model": "gpt-4o", "prediction": {"type": "content", "content": "twelve tokens of a guess, none of them right"}},
    {"model": "gpt-4o-audio-preview", "modalities": ["text", "audio"], "audio": {"voice": "ash", "format": "pcm16"}},
    {"model": "gpt-4o", "service_tier": "flex", "logprobs": True, "top_logprobs": 2},
    {"model": "gpt-5.6-sol", "messages": LONG},
]


def joined(chunks: list[ChatCompletionChunk]) -> dict[int, dict[str, Any]]:
    """What a client has after reading a stream: text, tool calls and finish reason of each choice."""
    seen: dict[int, dict[str, Any]] = {}
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        one = seen.setdefault(choice.index, {"text": "", "spoken": "", "calls": {}, "finish": None, "logprobs": []})
        one["text"] += choice.delta.content or ""
        one["spoken"] += (choice.delta.audio.transcript or "") if choice.delta.audio else ""
        one["finish"] = choice.finish_reason or one["finish"]
        one["logprobs"] += [entry.token for entry in (choice.logprobs and choice.logprobs.content) or []]
        for call in choice.delta.tool_calls or []:
            document = call.model_dump(exclude_unset=True)
            inner = document.get("function") or document.get("custom")
            known = one["calls"].setdefault(call.index, ["", ""])
            known[0] += inner.get("name", "")
            known[1] += inner.get("arguments", inner.get("input", ""))
    return seen


def told(completion: Any) -> dict[int, dict[str, Any]]:
    """The same of a plain answer."""
    seen = {}
    for choice in completion.choices:
        calls = {}
        for at, call in enumerate(choice.message.tool_calls or []):
            inner = call.function if call.type == "function" else call.custom
            calls[at] = [inner.name, inner.arguments if call.type == "function" else inner.input]
        seen[choice.index] = {
            "text": choice.message.content or "",
            "spoken": choice.message.audio.transcript if choice.message.audio else "",
            "calls": calls,
            "finish": choice.finish_reason,
            "logprobs": [entry.token for entry in (choice.logprobs and choice.logprobs.content) or []],
        }
    return seen


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join([shape["model"], *list(shape)[1:]]))
async def test_a_stream_says_what_the_plain_answer_says(sdk: openai.AsyncOpenAI, shape: dict[str, Any]) -> None:
    """Text, tool calls, reasons and usage of both forms are equal, and completion tokens are what was generated."""
    request = {"messages": ASK, **shape}
    plain = await sdk.chat.completions.create(**request)
    events = await sdk.chat.completions.create(**request, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in events]
    assert joined(chunks) == told(plain)
    assert {chunk.model for chunk in chunks} == {plain.model}
    assert {chunk.service_tier for chunk in chunks} == {plain.service_tier}
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    last = chunks[-1]
    assert last.choices == []
    assert last.usage is not None
    assert plain.usage is not None
    assert last.usage.completion_tokens == plain.usage.completion_tokens == generated(plain)
    assert last.usage.prompt_tokens == plain.usage.prompt_tokens
    assert plain.usage.total_tokens == plain.usage.prompt_tokens + plain.usage.completion_tokens


def generated(completion: Any) -> int:
    """Count an answer independently: visible text and tool calls by tiktoken, the rest as detailed."""
    encoding = "cl100k_base" if "3.5" in completion.model else "o200k_base"
    details = completion.usage.completion_tokens_details
    hidden = details.reasoning_tokens + details.audio_tokens + details.rejected_prediction_tokens
    texts = [part for one in told(completion).values() for part in (one["text"], one["spoken"])]
    calls = [part for one in told(completion).values() for call in one["calls"].values() for part in call]
    return hidden + sum(count_tokens(encoding, text) for text in (*texts, *calls))


async def test_prompt_tokens_are_true(sdk: openai.AsyncOpenAI) -> None:
    """Three tokens a message, three to prime, one for a name, and the text as the model's vocabulary has it."""
    named: list[Any] = [*ASK, {"role": "user", "name": "ann", "content": [{"type": "text", "text": "and café?"}]}]
    completion = await sdk.chat.completions.create(model="gpt-4o", messages=named)
    words = ["system", "Be brief.", "user", "What is <|endoftext|>?", "user", "ann", "and café?"]
    expected = 3 + 3 * 3 + 1 + sum(count_tokens("o200k_base", word) for word in words)
    assert completion.usage is not None
    assert completion.usage.prompt_tokens == expected


async def test_usage_only_when_asked(sdk: openai.AsyncOpenAI) -> None:
    """Without the option no event has the member at all."""
    events = await sdk.chat.completions.create(model="gpt-4o", messages=ASK, stream=True)
    chunks = [chunk async for chunk in events]
    assert not any("usage" in chunk.model_fields_set for chunk in chunks)
    assert all(chunk.obfuscation for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_obfuscation_can_be_left_out(sdk: openai.AsyncOpenAI) -> None:
    """`include_obfuscation: false` leaves the padding out."""
    events = await sdk.chat.completions.create(
        model="gpt-4o", messages=ASK, stream=True, stream_options={"include_obfuscation": False}
    )
    assert {chunk.obfuscation async for chunk in events} == {None}


async def test_long_prompts_are_cached(sdk: openai.AsyncOpenAI) -> None:
    """The second time a prompt over 1024 tokens comes, its prefix is cached in steps of 128; what is new is not."""
    usages = []
    for more in ("", "", " and one more thing"):
        messages: Any = [{"role": "user", "content": LONG[0]["content"] + more}]
        completion = await sdk.chat.completions.create(model="gpt-5.6-sol", messages=messages)
        assert completion.usage is not None
        assert completion.usage.prompt_tokens_details is not None
        usages.append((completion.usage.prompt_tokens, completion.usage.prompt_tokens_details))
    cached = [details.cached_tokens for _, details in usages]
    assert cached[0] == 0
    assert cached[1] == cached[2]
    assert cached[1] in range(1_024, usages[0][0])
    assert cached[1] % 128 == 0
    assert [details.cache_write_tokens for _, details in usages] == [
        tokens - (details.cached_tokens or 0) for tokens, details in usages
    ]


async def test_short_prompts_are_not_cached(sdk: openai.AsyncOpenAI) -> None:
    """Under 1024 tokens nothing is cached."""
    for _ in range(2):
        completion = await sdk.chat.completions.create(model="gpt-4o", messages=ASK)
    assert completion.usage is not None
    assert completion.usage.prompt_tokens_details is not None
    assert completion.usage.prompt_tokens_details.cached_tokens == 0


async def test_reasoning_can_use_up_the_maximum(sdk: openai.AsyncOpenAI) -> None:
    """A maximum below what reasoning takes leaves an empty answer that ends for length."""
    completion = await sdk.chat.completions.create(model="o3", messages=ASK, max_completion_tokens=50)
    assert completion.choices[0].message.content == ""
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage is not None
    assert completion.usage.completion_tokens_details is not None
    assert (completion.usage.completion_tokens, completion.usage.completion_tokens_details.reasoning_tokens) == (50, 50)


async def test_tool_arguments_follow_the_schema(sdk: openai.AsyncOpenAI) -> None:
    """Arguments are JSON with what the schema requires; after the tool's result comes text."""
    called = await sdk.chat.completions.create(model="gpt-4o", messages=ASK, tools=[TOOL])
    call: Any = (called.choices[0].message.tool_calls or [])[0]
    assert called.choices[0].finish_reason == "tool_calls"
    assert set(json.loads(call.function.arguments)) == {"city", "unit"}
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "12 C"}
    messages: Any = [*ASK, called.choices[0].message.model_dump(exclude_none=True), result]
    answered = await sdk.chat.completions.create(model="gpt-4o", messages=messages, tools=[TOOL])
    assert answered.choices[0].message.content


async def test_structured_output_validates(sdk: openai.AsyncOpenAI) -> None:
    """The SDK's own `parse` accepts the answer."""

    class Verdict(BaseModel):
        passed: bool
        reasons: list[str]

    parsed = await sdk.chat.completions.parse(model="gpt-4o", messages=ASK, response_format=Verdict)
    assert isinstance(parsed.choices[0].message.parsed, Verdict)


@pytest.mark.parametrize(
    ("asked", "served"), [(None, "default"), ("auto", "default"), ("flex", "flex"), ("fast", "priority")]
)
async def test_service_tier_is_told(sdk: openai.AsyncOpenAI, asked: Any, served: str) -> None:
    """The answer names the tier that served it."""
    completion = await sdk.chat.completions.create(model="gpt-4o", messages=ASK, service_tier=asked)
    assert completion.service_tier == served


@pytest.mark.parametrize(
    ("change", "status", "code", "param"),
    [
        ({"model": "gpt-17"}, 404, "model_not_found", None),
        ({"model": "gpt-3.5-turbo-instruct"}, 404, None, "model"),
        ({"model": "text-embedding-3-small"}, 403, "model_not_supported", None),
        ({"messages": "hello"}, 400, "invalid_type", "messages"),
        ({"messages": []}, 400, "empty_array", "messages"),
        ({"messages": [{"content": "x"}]}, 400, "missing_required_parameter", "messages[0].role"),
        ({"max_tokens": "9"}, 400, "invalid_type", "max_tokens"),
        ({"max_tokens": 9.5}, 400, "invalid_type", "max_tokens"),
        ({"max_tokens": 0}, 400, "integer_below_minimum_value", "max_tokens"),
        ({"max_tokens": 16_385}, 400, "invalid_value", "max_tokens"),
        ({"temperature": 2.5}, 400, "decimal_above_maximum_value", "temperature"),
        ({"n": True}, 400, "invalid_type", "n"),
        ({"service_tier": "gold"}, 400, "invalid_value", "service_tier"),
        ({"stream_options": {"include_usage": True}}, 400, None, "stream_options"),
        ({"model": "o3", "max_tokens": 9}, 400, "unsupported_parameter", "max_tokens"),
        (
            {"model": "gpt-3.5-turbo", "messages": [{"role": "user", "content": "long " * 17_000}]},
            400,
            "context_length_exceeded",
            "messages",
        ),
        ({"no_such_thing": 1}, 400, None, None),
        ({"tools": [TOOL], "tool_choice": FUNCTION_CHOICE}, 400, None, "tool_choice"),
    ],
    ids=str,
)
async def test_refusals(sdk: openai.AsyncOpenAI, change: dict[str, Any], status: int, code: Any, param: Any) -> None:
    """Each wrong request gets OpenAI's status, code and param."""
    with pytest.raises(openai.APIStatusError) as caught:
        await sdk.post("/chat/completions", body={"model": "gpt-4o", "messages": ASK, **change}, cast_to=object)
    body: Any = caught.value.body
    assert (caught.value.status_code, body["code"], body["param"]) == (status, code, param)
    assert body["type"] == "invalid_request_error"
    assert set(body) == {"message", "type", "param", "code"}
