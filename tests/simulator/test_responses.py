"""Responses, conversations, stored completions and moderations of the simulated provider."""

from typing import Any

import aiohttp
import openai
import pytest

from meterproxy.simulator.vocabulary import count_tokens

MODEL = "gpt-4o"
TOOL: Any = {
    "type": "function",
    "name": "weather",
    "strict": True,
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def simulate(faults: str) -> dict[str, str]:
    return {"X-Simulate": faults}


@pytest.mark.parametrize("model", [MODEL, "gpt-5-mini"])
@pytest.mark.parametrize("tools", [[], [TOOL], [{"type": "web_search"}], [{"type": "custom", "name": "free"}]])
async def test_stream_comes_to_the_plain_answer(sdk: openai.AsyncOpenAI, model: str, tools: Any) -> None:
    """Both forms say the same, and a stream's deltas are its texts."""
    request: dict[str, Any] = {"model": model, "input": "Tell me something.", "tools": tools, "store": False}
    plain = await sdk.responses.create(**request)
    events = [event async for event in await sdk.responses.create(**request, stream=True)]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    last: Any = events[-1]
    assert last.response.usage == plain.usage
    assert [item.type for item in last.response.output] == [item.type for item in plain.output]
    assert last.response.output_text == plain.output_text
    deltas = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert deltas == plain.output_text


async def test_counts_are_true(sdk: openai.AsyncOpenAI) -> None:
    """Visible text counts what it counts, reasoning is part of the output, and a maximum holds for both."""
    made = await sdk.responses.create(model=MODEL, input="Hi", extra_headers=simulate("tokens=33,reasoning=7"))
    assert made.usage is not None
    assert count_tokens("o200k_base", made.output_text) == 33
    assert (made.usage.output_tokens, made.usage.output_tokens_details.reasoning_tokens) == (40, 7)
    cut = await sdk.responses.create(
        model=MODEL, input="Hi", max_output_tokens=20, extra_headers=simulate("tokens=33,reasoning=7")
    )
    assert cut.usage is not None
    assert (cut.status, cut.usage.output_tokens) == ("incomplete", 20)


async def test_calls_of_hosted_tools_read_again(sdk: openai.AsyncOpenAI) -> None:
    """Each call makes the model read everything once more; `max_tool_calls` holds."""
    tools: Any = [{"type": "web_search"}]
    one, three, two = [
        await sdk.responses.create(
            model=MODEL, input="Hi", tools=tools, max_tool_calls=most, extra_headers=simulate(f"calls={calls}")
        )
        for calls, most in ((1, 9), (3, 9), (3, 2))
    ]
    assert [len(made.output) for made in (one, three, two)] == [2, 4, 3]
    assert one.usage is not None
    assert two.usage is not None
    assert three.usage is not None
    assert one.usage.input_tokens < two.usage.input_tokens < three.usage.input_tokens


async def test_history_is_read(sdk: openai.AsyncOpenAI) -> None:
    """What went before counts as input: by the last response, by a conversation, by reference."""
    first = await sdk.responses.create(model=MODEL, input="Tell me something.")
    alone = await sdk.responses.input_tokens.count(model=MODEL, input="And?")
    after = await sdk.responses.input_tokens.count(model=MODEL, input="And?", previous_response_id=first.id)
    assert after.input_tokens > alone.input_tokens
    conversation = await sdk.conversations.create(items=[{"role": "user", "content": "Hello."}])
    await sdk.responses.create(model=MODEL, input="And?", conversation=conversation.id)
    types = [item.type async for item in await sdk.conversations.items.list(conversation.id)]
    assert types == ["message"] * 3
    reference: Any = [{"type": "item_reference", "id": first.output[0].id}]
    assert (await sdk.responses.input_tokens.count(model=MODEL, input=reference)).input_tokens > 10


async def test_background_has_phases(sdk: openai.AsyncOpenAI) -> None:
    """A response in the background ends after as many looks as were asked for; a cancelled one never does."""
    made = await sdk.responses.create(model=MODEL, input="Hi", background=True, extra_headers=simulate("phases=3"))
    seen = [(await sdk.responses.retrieve(made.id)).status for _ in range(4)]
    assert [made.status, *seen] == ["queued", "in_progress", "in_progress", "completed", "completed"]
    other = await sdk.responses.create(model=MODEL, input="Hi", background=True)
    assert (await sdk.responses.cancel(other.id)).status == "cancelled"
    assert (await sdk.responses.retrieve(other.id)).usage is None
    plain = await sdk.responses.create(model=MODEL, input="Hi")
    with pytest.raises(openai.BadRequestError, match="synchronous"):
        await sdk.responses.cancel(plain.id)


async def test_failed_response(sdk: openai.AsyncOpenAI) -> None:
    """A response can fail, plain and streamed, and has no usage then."""
    plain = await sdk.responses.create(model=MODEL, input="Hi", extra_headers=simulate("failed"))
    assert (plain.status, plain.usage) == ("failed", None)
    stream = await sdk.responses.create(model=MODEL, input="Hi", stream=True, extra_headers=simulate("failed"))
    assert [event.type async for event in stream][-1] == "response.failed"


async def test_replay_goes_on_behind_a_number(sdk: openai.AsyncOpenAI) -> None:
    """The stream of a stored response can be had again from any event on."""
    events = [event async for event in await sdk.responses.create(model=MODEL, input="Hi", stream=True)]
    first: Any = events[0]
    replay = await sdk.responses.retrieve(first.response.id, stream=True, starting_after=4)
    assert [event async for event in replay] == events[5:]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda sdk: sdk.responses.retrieve("resp_x"), "Response with id 'resp_x' not found."),
        (lambda sdk: sdk.responses.delete("resp_x"), "Response with id 'resp_x' not found."),
        (lambda sdk: sdk.conversations.retrieve("conv_x"), "Conversation with id 'conv_x' not found."),
        (lambda sdk: sdk.chat.completions.retrieve("x"), "Chat completion with id 'x' not found."),
        (lambda sdk: sdk.responses.create(model=MODEL, input=[{"type": "item_reference", "id": "x"}]), "Item with id"),
        (lambda sdk: sdk.responses.create(model="no-model", input="Hi"), "does not exist"),
        (lambda sdk: sdk.responses.input_tokens.count(model="no-model", input="Hi"), "does not exist"),
    ],
)
async def test_what_is_not_there(sdk: openai.AsyncOpenAI, call: Any, words: str) -> None:
    """Nothing is found that was not stored, in OpenAI's words."""
    with pytest.raises(openai.NotFoundError, match=words):
        await call(sdk)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": MODEL}, "input"),
        ({"model": MODEL, "input": 5}, "input"),
        ({"model": MODEL, "input": "Hi", "max_output_tokens": 3}, "max_output_tokens"),
        ({"model": MODEL, "input": "Hi", "max_output_tokens": 10**7}, "max_output_tokens"),
        ({"model": MODEL, "input": "Hi", "previous_response_id": "resp_x"}, "previous_response_id"),
        ({"model": MODEL, "input": "Hi", "tools": [1]}, None),
        ({"model": MODEL, "input": [{"role": "user", "content": [1.5]}]}, None),
    ],
)
async def test_requests_are_checked(http: aiohttp.ClientSession, body: dict[str, Any], param: str | None) -> None:
    """A senseless request is a 400 that names its member, if the fault is one of its own members."""
    async with http.post("v1/responses", json=body) as answer:
        assert answer.status == 400
        assert (await answer.json())["error"]["param"] == param


async def test_stored_completions_are_listed(sdk: openai.AsyncOpenAI) -> None:
    """By page, by model and by metadata."""
    messages: Any = [{"role": "user", "content": "Hi"}]
    ids = [
        (
            await sdk.chat.completions.create(
                model=model, messages=messages, max_tokens=1, store=True, metadata={"number": str(number)}
            )
        ).id
        for number, model in enumerate([MODEL, MODEL, "gpt-4o-mini"])
    ]
    assert [completion.id async for completion in sdk.chat.completions.list(limit=1)] == ids
    assert [completion.id async for completion in sdk.chat.completions.list(order="desc")] == ids[::-1]
    assert [one.id async for one in sdk.chat.completions.list(model="gpt-4o-mini-2024-07-18")] == ids[2:]
    assert [one.id async for one in sdk.chat.completions.list(metadata={"number": "1"})] == ids[1:2]
    with pytest.raises(openai.BadRequestError, match="after"):
        await sdk.chat.completions.list(after="unheard-of")


async def test_compaction_leaves_one_item(sdk: openai.AsyncOpenAI) -> None:
    """What is compacted comes back as one item, and is counted."""
    made = await sdk.responses.compact(model=MODEL, input="Hi")
    assert [item.type for item in made.output] == ["compaction"]
    assert made.usage.input_tokens > 0


@pytest.mark.parametrize("given", [[], 5, [5], {"a": "b"}])
async def test_senseless_moderations(http: aiohttp.ClientSession, given: Any) -> None:
    """Only texts and parts can be judged."""
    async with http.post("v1/moderations", json={"input": given}) as answer:
        assert answer.status == 400
