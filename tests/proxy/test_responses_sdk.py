"""OpenAI's own SDK over everything that a provider stores: responses, conversations, stored completions, moderations."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import openai
import orjson
import pytest
from pydantic import BaseModel

from meterproxy.proxy.background import CANCELLED_TOKENS_PER_SECOND, ask_provider
from meterproxy.proxy.settings import ExchangeSettings
from meterproxy.proxy.turns import Turns
from tests.proxy.fakes import SECRET, FakeLedger
from tests.proxy.house import House, built, request, until

HI: Any = [{"role": "user", "content": "Tell me something."}]
MODEL = "gpt-4o"


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with built() as house:
        yield house


@pytest.fixture
async def sdk(house: House) -> AsyncIterator[openai.AsyncOpenAI]:
    async with client_of(house) as client:
        yield client


def client_of(house: House, **options: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{house.port}/v1", api_key=SECRET, max_retries=0, **options)


def faults(simulate: str) -> dict[str, str]:
    return {"X-Simulate": simulate}


def claimed(house: House) -> set[tuple[str, str]]:
    return {(resource.kind, resource.id) for resource in house.owners.claimed}


class TestResponses:
    """Responses: made, streamed, looked at, gone on from, deleted."""

    async def test_create(self, sdk: openai.AsyncOpenAI, house: House) -> None:
        """A response is parsed, booked as it says, and its ids are its account's."""
        made = await sdk.responses.create(model=MODEL, input="Tell me something.")
        assert made.output_text
        assert made.usage is not None
        [row] = house.ledger.rows
        assert (row.usage.input, row.usage.output) == (made.usage.input_tokens, made.usage.output_tokens)
        assert (row.how, row.source, row.outcome) == ("captured", "provider", "completed")
        assert {("response", made.id), ("item", made.output[0].id)} <= claimed(house)

    async def test_stream(self, sdk: openai.AsyncOpenAI, house: House) -> None:
        """A stream comes event by event, is booked by its last, and its ids are claimed before they come."""
        stream = await sdk.responses.create(model=MODEL, input="Tell me something.", stream=True)
        events = []
        async for event in stream:
            if event.type == "response.created":
                assert ("response", event.response.id) in claimed(house)
            if event.type == "response.output_item.added":
                assert ("item", event.item.id) in claimed(house)
            if event.type == "response.completed":
                assert house.ledger.rows
            events.append(event)
        last: Any = events[-1]
        assert last.type == "response.completed"
        assert [event.sequence_number for event in events] == list(range(len(events)))
        [row] = house.ledger.rows
        assert (row.usage.output, row.source) == (last.response.usage.output_tokens, "provider")

    async def test_look_and_delete(self, sdk: openai.AsyncOpenAI, house: House) -> None:
        """What was made can be looked at until it is deleted; neither costs anything."""
        made = await sdk.responses.create(model=MODEL, input="Tell me something.")
        assert (await sdk.responses.retrieve(made.id)).output_text == made.output_text
        assert house.durable.lookups == 0
        assert [item.type async for item in await sdk.responses.input_items.list(made.id)] == ["message"]
        await sdk.responses.delete(made.id)
        with pytest.raises(openai.NotFoundError) as gone:
            await sdk.responses.retrieve(made.id)
        assert gone.value.body == {
            "message": f"Response with id '{made.id}' not found.",
            "type": "invalid_request_error",
            "param": None,
            "code": None,
        }
        assert len(house.ledger.rows) == 1
        assert [resource.id for resource in house.owners.forgotten] == [made.id]

    async def test_raw_response(self, sdk: openai.AsyncOpenAI, house: House) -> None:
        """Cost and id are readable where the SDK shows headers."""
        raw = await sdk.responses.with_raw_response.create(model=MODEL, input="Tell me something.")
        assert raw.headers["x-meterproxy-request-id"] == str(house.ledger.rows[0].request_id)
        assert raw.headers["x-meterproxy-cost"]
        looked = await sdk.responses.with_raw_response.retrieve(raw.parse().id)
        assert "x-meterproxy-cost" not in looked.headers
        assert looked.headers["x-meterproxy-request-id"]

    async def test_streaming_response(self, sdk: openai.AsyncOpenAI) -> None:
        """The SDK's raw stream gives the same bytes line by line."""
        async with sdk.responses.with_streaming_response.create(model=MODEL, input="Hi", stream=True) as raw:
            lines = [line async for line in raw.iter_lines()]
        assert lines[0] == "event: response.created"
        assert "event: response.completed" in lines

    async def test_stream_helper(self, sdk: openai.AsyncOpenAI) -> None:
        """The helper that gathers a stream comes to the same response."""
        async with sdk.responses.stream(model=MODEL, input="Tell me something.") as stream:
            texts = [event.delta async for event in stream if event.type == "response.output_text.delta"]
            final = await stream.get_final_response()
        assert "".join(texts) == final.output_text

    async def test_sync_client(self, house: House) -> None:
        """The synchronous client works as well: plain, streamed, raw, looked at, deleted."""

        def ask() -> tuple[str, list[str], str | None]:
            with openai.OpenAI(base_url=f"http://127.0.0.1:{house.port}/v1", api_key=SECRET, max_retries=0) as client:
                made = client.responses.create(model=MODEL, input="Hi")
                stream = client.responses.create(model=MODEL, input="Hi", stream=True)
                types = [event.type for event in stream]
                looked = client.responses.with_raw_response.retrieve(made.id)
                client.responses.delete(made.id)
                return made.output_text, types, looked.headers.get("x-meterproxy-request-id")

        text, types, request_id = await asyncio.to_thread(ask)
        assert text
        assert types[-1] == "response.completed"
        assert request_id

    async def test_going_on(self, sdk: openai.AsyncOpenAI, house: House) -> None:
        """A response that goes on from another is held by the whole context, and belongs to it."""
        first = await sdk.responses.create(model=MODEL, input="Tell me something.")
        second = await sdk.responses.create(model=MODEL, input="And more?", previous_response_id=first.id)
        assert second.previous_response_id == first.id
        placed = house.ledger.placed[1]
        assert placed.bound.input_tokens == 128_000
        assert placed.conversation == first.id
        named = await sdk.responses.create(
            model=MODEL, input="Hm.", previous_response_id=first.id, extra_headers={"X-Meterproxy-Conversation": "mine"}
        )
        assert named.id
        assert house.ledger.placed[2].conversation == "mine"

    async def test_items_are_sent_back(self, sdk: openai.AsyncOpenAI) -> None:
        """An answer's items can be sent back with their ids, whole or by reference, stored or not."""
        first = await sdk.responses.create(model=MODEL, input="Tell me something.", store=False)
        back: Any = [*HI, *(item.model_dump() for item in first.output), *HI]
        assert await sdk.responses.create(model=MODEL, input=back)
        stored = await sdk.responses.create(model=MODEL, input="Tell me something.")
        reference: Any = [{"type": "item_reference", "id": stored.output[0].id}, *HI]
        assert await sdk.responses.create(model=MODEL, input=reference)

    async def test_not_stored(self, sdk: openai.AsyncOpenAI, house: House) -> None:
        """A response that is not stored cannot be mentioned later, and is not claimed; its items can."""
        made = await sdk.responses.create(model=MODEL, input="Hi", store=False)
        assert {kind for kind, _ in claimed(house)} == {"item"}
        with pytest.raises(openai.NotFoundError):
            await sdk.responses.retrieve(made.id)

    async def test_tools(self, sdk: openai.AsyncOpenAI, house: House) -> None:
        """A function that is called is booked by its name, and its result can be sent back."""
        tool: Any = {
            "type": "function",
            "name": "weather",
            "strict": True,
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        }
        made = await sdk.responses.create(model=MODEL, input="Weather?", tools=[tool])
        [call] = made.output
        assert call.type == "function_call"
        assert house.ledger.rows[0].ending.tools == ("weather",)
        result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny."}
        again = await sdk.responses.create(model=MODEL, input=[result], previous_response_id=made.id, tools=[tool])
        assert again.output_text

    @pytest.mark.parametrize("stream", [False, True])
    async def test_hosted_tools(self, sdk: openai.AsyncOpenAI, house: House, stream: bool) -> None:
        """Searches are limited, held and booked: the limit is written in where it is missing."""
        tools: Any = [{"type": "web_search"}, {"type": "file_search", "vector_store_ids": ["vs_1"]}]
        house.owners.give("vector_store", "vs_1")
        made: Any = await sdk.responses.create(
            model=MODEL,
            input="Look.",
            tools=tools,
            stream=stream,
            extra_headers=faults("calls=3"),
            max_output_tokens=99,
        )
        if stream:
            async for event in made:
                assert event.type
        [row] = house.ledger.rows
        assert (row.usage.web_searches, row.usage.file_searches) == (2, 1)
        assert row.ending.tools == ("web_search", "file_search")
        assert house.ledger.placed[0].bound.web_searches == 8
        assert row.amount_nanos <= row.hold_nanos
        [call] = await house.calls()
        assert orjson.loads(call["body"])["max_tool_calls"] == 8

    async def test_own_limit_of_calls(self, sdk: openai.AsyncOpenAI, house: House) -> None:
        """A client's own limit of calls is what is held."""
        tools: Any = [{"type": "web_search"}]
        await sdk.responses.create(
            model=MODEL,
            input="Look.",
            tools=tools,
            max_tool_calls=1,
            max_output_tokens=99,
            extra_headers=faults("calls=3"),
        )
        assert house.ledger.placed[0].bound.web_searches == 1
        assert house.ledger.rows[0].usage.web_searches == 1

    @pytest.mark.parametrize("kind", ["image_generation", "code_interpreter", "shell", "time_travel"])
    async def test_tools_without_a_price(self, sdk: openai.AsyncOpenAI, house: House, kind: str) -> None:
        """A tool whose cost no price names is refused in words, and nothing is sent."""
        tools: Any = [{"type": kind}]
        with pytest.raises(openai.BadRequestError, match=kind):
            await sdk.responses.create(model=MODEL, input="Do it.", tools=tools)
        assert not house.ledger.placed
        assert not await house.calls()

    async def test_structured_output(self, sdk: openai.AsyncOpenAI) -> None:
        """An answer by schema is parsed into its class."""
        answer = await sdk.responses.parse(model=MODEL, input="A city.", text_format=City)
        assert isinstance(answer.output_parsed, City)

    async def test_compact_and_count(self, sdk: openai.AsyncOpenAI, house: House) -> None:
        """Compaction is booked; counting is free, needs no model, and goes where what it mentions is."""
        first = await sdk.responses.create(model=MODEL, input="Tell me something.")
        compacted = await sdk.responses.compact(model=MODEL, previous_response_id=first.id)
        assert compacted.output[0].type == "compaction"
        assert house.ledger.rows[1].usage.output == compacted.usage.output_tokens
        counted = await sdk.responses.input_tokens.count(previous_response_id=first.id, input="And?")
        assert counted.input_tokens > 0
        assert (await sdk.responses.input_tokens.count(model=MODEL, input="And?")).input_tokens > 0
        assert len(house.ledger.rows) == 2
        with pytest.raises(openai.NotFoundError) as unknown:
            await sdk.responses.input_tokens.count(model=MODEL, previous_response_id="resp_others", input="And?")
        assert unknown.value.code is None

    async def test_maximum_is_kept(self, sdk: openai.AsyncOpenAI, house: House) -> None:
        """An answer that its maximum cut is incomplete, and booked."""
        made = await sdk.responses.create(
            model=MODEL, input="Hi", max_output_tokens=16, extra_headers=faults("tokens=60")
        )
        assert made.status == "incomplete"
        assert house.ledger.rows[0].usage.output == 16

    @pytest.mark.parametrize("stream", [False, True])
    async def test_usage_is_missing(self, sdk: openai.AsyncOpenAI, house: House, stream: bool) -> None:
        """Missing usage is counted from what was said."""
        made: Any = await sdk.responses.create(
            model=MODEL, input="Hi", stream=stream, extra_headers=faults("no_usage,tokens=30")
        )
        if stream:
            async for event in made:
                assert event.type
        [row] = house.ledger.rows
        assert (row.source, row.usage.output) == ("counted", 30)
        assert row.usage.input > 0

    async def test_stream_that_breaks(self, sdk: openai.AsyncOpenAI, house: House) -> None:
        """A stream that breaks off raises in the SDK; what was delivered is counted."""
        stream = await sdk.responses.create(
            model=MODEL, input="Hi", stream=True, extra_headers=faults("cut=9,tokens=40")
        )
        with pytest.raises(openai.APIError, match="broke off"):
            _ = [event async for event in stream]
        await house.ended()
        [row] = house.ledger.rows
        assert (row.outcome, row.source, row.usage.output) == ("stream_broken", "counted", 5)

    async def test_cancel_after_a_while(self, sdk: openai.AsyncOpenAI, house: House) -> None:
        """What a model may have thought until it was cancelled shows nowhere and is billed: time bounds it."""
        made = await sdk.responses.create(model=MODEL, input="Hi", background=True)
        house.clock.advance(7.0)
        await sdk.responses.cancel(made.id)
        [row] = house.ledger.rows
        assert row.usage.output >= 7 * CANCELLED_TOKENS_PER_SECOND
        assert row.amount_nanos <= row.hold_nanos

    async def test_failed(self, sdk: openai.AsyncOpenAI, house: House) -> None:
        """A response that failed without usage costs nothing; it is there all the same."""
        made = await sdk.responses.create(model=MODEL, input="Hi", extra_headers=faults("failed"))
        assert made.status == "failed"
        assert (house.ledger.rows[0].how, house.ledger.rows[0].outcome) == ("released", "provider_error")
        assert (await sdk.responses.retrieve(made.id)).status == "failed"


class City(BaseModel):
    name: str
    people: int


class TestBackground:
    """Responses in the background: held until somebody sees the end, booked once."""

    async def test_look_until_ended(self, sdk: openai.AsyncOpenAI, house: House) -> None:
        """A look that shows the end books it before it is shown, and only the first does."""
        made = await sdk.responses.create(model=MODEL, input="Hi", background=True)
        assert made.status == "queued"
        assert not house.ledger.rows
        assert len(house.ledger.open) == 1
        statuses = []
        while not house.ledger.rows:
            statuses.append((await sdk.responses.retrieve(made.id)).status)
        assert statuses == ["in_progress", "completed"]
        last = await sdk.responses.retrieve(made.id)
        [row] = house.ledger.rows
        assert last.usage is not None
        assert (row.outcome, row.source, row.usage.output) == ("completed", "provider", last.usage.output_tokens)
        assert not house.durable.waiting

    async def test_cancel(self, sdk: openai.AsyncOpenAI, house: House) -> None:
        """A cancelled response is booked by an estimate."""
        made = await sdk.responses.create(model=MODEL, input="Hi", background=True)
        assert (await sdk.responses.cancel(made.id)).status == "cancelled"
        [row] = house.ledger.rows
        assert (row.outcome, row.source, row.ending.flags) == ("client_left", "estimated", ("cancelled",))
        assert row.usage.input > 0

    async def test_failed(self, sdk: openai.AsyncOpenAI, house: House) -> None:
        """One that fails without usage costs nothing."""
        made = await sdk.responses.create(
            model=MODEL, input="Hi", background=True, extra_headers=faults("failed,phases=1")
        )
        assert (await sdk.responses.retrieve(made.id)).status == "failed"
        [row] = house.ledger.rows
        assert (row.outcome, row.amount_nanos) == ("provider_error", 0)

    async def test_stream_to_its_end(self, sdk: openai.AsyncOpenAI, house: House) -> None:
        """A stream that comes to its end books it there."""
        stream = await sdk.responses.create(model=MODEL, input="Hi", background=True, stream=True)
        types = [event.type async for event in stream]
        assert types[:2] == ["response.created", "response.queued"]
        await house.ended()
        assert [(row.outcome, row.source) for row in house.ledger.rows] == [("completed", "provider")]
        assert not house.durable.waiting

    async def test_stream_that_is_left(self, sdk: openai.AsyncOpenAI, house: House) -> None:
        """A stream that its client leaves stays durable; its replay goes on where it was, and books the end."""
        stream = await sdk.responses.create(
            model=MODEL, input="Hi", background=True, stream=True, extra_headers=faults("tokens=40,slow=0.002")
        )
        seen = await anext(aiter(stream))
        assert seen.type == "response.created"
        await stream.close()
        await house.ended()
        assert not house.ledger.rows
        assert len(house.durable.waiting) == 1
        replay = await sdk.responses.retrieve(seen.response.id, stream=True, starting_after=2)
        events = [event async for event in replay]
        assert events[0].sequence_number == 3
        assert events[-1].type == "response.completed"
        assert [(row.outcome, row.source) for row in house.ledger.rows] == [("completed", "provider")]

    @pytest.mark.parametrize(
        "settings", [{}, {"on_disconnect": "cancel"}, {"leavers": 0}], ids=["drain", "cancel", "no room"]
    )
    async def test_stream_that_is_left_before_it_begins(self, settings: Any) -> None:
        """Who leaves before the first event has come does not get work in the background for what was seen of it."""
        async with built(ExchangeSettings(**settings)) as house:
            async with house.client() as client:
                body = {"model": MODEL, "input": "Hi", "background": True, "stream": True}
                client.send(request("/v1/responses", body, X_Simulate="delay=0.1,piece=40,slow=0.001"))
                await until(lambda: house.ledger.open)
                sock = client.writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.writer.transport.abort()
            await house.ended()
            assert not house.ledger.rows
            [resource] = house.durable.waiting
            assert resource in house.owners.claimed

    async def test_stream_that_breaks(self, sdk: openai.AsyncOpenAI, house: House) -> None:
        """A background stream that breaks off tells its client, and the hold stays."""
        stream = await sdk.responses.create(
            model=MODEL, input="Hi", background=True, stream=True, extra_headers=faults("cut=6")
        )
        with pytest.raises(openai.APIError, match="broke off"):
            _ = [event async for event in stream]
        await house.ended()
        assert not house.ledger.rows
        assert len(house.durable.waiting) == 1

    async def test_delete(self, sdk: openai.AsyncOpenAI, house: House) -> None:
        """What is being worked on cannot be deleted; what has ended is booked before it is."""
        made = await sdk.responses.create(model=MODEL, input="Hi", background=True)
        with pytest.raises(openai.ConflictError):
            await sdk.responses.delete(made.id)
        assert not house.ledger.rows
        await sdk.responses.delete(made.id)
        assert [row.outcome for row in house.ledger.rows] == ["completed"]
        assert [resource.kind for resource in house.owners.forgotten] == ["response"]

    async def test_poller(self, sdk: openai.AsyncOpenAI, house: House) -> None:
        """Asked by the proxy itself, a provider tells the ending once there is one; one that is gone is estimated."""
        made = await sdk.responses.create(model=MODEL, input="Hi", background=True)
        [(resource, hold)] = house.durable.waiting.items()
        assert await ask_provider(house.provider, resource, hold, house.clock.now_us(), Turns()) is None
        ending = await ask_provider(house.provider, resource, hold, house.clock.now_us(), Turns())
        assert ending is not None
        assert (ending.outcome, ending.usage_source) == ("completed", "provider")
        assert ending.provider_request_id == made.id
        gone = msgspec.structs.replace(resource, id="resp_gone")
        ending = await ask_provider(house.provider, gone, hold, house.clock.now_us(), Turns())
        assert ending is not None
        assert (ending.usage_source, ending.flags) == ("estimated", ("vanished",))


class TestConversations:
    """Conversations and their items: made, changed, listed, used, deleted."""

    async def test_life(self, sdk: openai.AsyncOpenAI, house: House) -> None:
        """Nothing of a conversation costs anything but the responses in it, which belong to it."""
        made = await sdk.conversations.create(items=HI, metadata={"topic": "proxies"})
        assert (await sdk.conversations.retrieve(made.id)).metadata == {"topic": "proxies"}
        assert (await sdk.conversations.update(made.id, metadata={"topic": "money"})).metadata == {"topic": "money"}
        answer = await sdk.responses.create(model=MODEL, input="Hi", conversation=made.id)
        assert answer.conversation is not None
        assert answer.conversation.id == made.id
        assert house.ledger.placed[0].conversation == made.id
        assert house.ledger.placed[0].bound.input_tokens == 128_000
        items = [item async for item in await sdk.conversations.items.list(made.id, order="asc")]
        assert len(items) == 3
        added = await sdk.conversations.items.create(made.id, items=HI)
        item_id: Any = added.data[0].id
        assert ("item", item_id) in claimed(house)
        assert (await sdk.conversations.items.retrieve(item_id, conversation_id=made.id)).type == "message"
        await sdk.conversations.items.delete(item_id, conversation_id=made.id)
        with pytest.raises(openai.NotFoundError):
            await sdk.conversations.items.retrieve(item_id, conversation_id=made.id)
        assert (await sdk.conversations.delete(made.id)).deleted
        with pytest.raises(openai.NotFoundError, match="Conversation with id"):
            await sdk.conversations.retrieve(made.id)
        assert len(house.ledger.rows) == 1

    async def test_pages(self, sdk: openai.AsyncOpenAI) -> None:
        """The SDK pages through items by what the proxy passes on."""
        items: Any = [{"role": "user", "content": f"Number {number}."} for number in range(7)]
        made = await sdk.conversations.create(items=items)
        listed = [item async for item in await sdk.conversations.items.list(made.id, limit=3, order="asc")]
        assert len(listed) == 7


class TestStoredCompletions:
    """Stored chat completions: listed only to whom they belong."""

    @pytest.mark.parametrize("stream", [False, True])
    async def test_life(self, sdk: openai.AsyncOpenAI, house: House, stream: bool) -> None:
        """What was stored can be looked at, changed, listed, and deleted; only the completion costs."""
        made: Any = await sdk.chat.completions.create(model=MODEL, messages=HI, store=True, stream=stream)
        id_ = (await anext(aiter(made))).id if stream else made.id
        assert claimed(house) == {("chat_completion", id_)}
        assert (await sdk.chat.completions.retrieve(id_)).id == id_
        assert (await sdk.chat.completions.update(id_, metadata={"a": "b"})).metadata == {"a": "b"}
        messages = [message async for message in await sdk.chat.completions.messages.list(id_)]
        assert [message.content for message in messages] == ["Tell me something."]
        assert [completion.id async for completion in await sdk.chat.completions.list()] == [id_]
        assert (await sdk.chat.completions.delete(id_)).deleted
        with pytest.raises(openai.NotFoundError, match="Chat completion with id"):
            await sdk.chat.completions.retrieve(id_)
        if stream:
            await made.close()
            await house.ended()
        assert len(house.ledger.rows) == 1

    async def test_not_stored(self, sdk: openai.AsyncOpenAI, house: House) -> None:
        """What is not stored is not claimed."""
        await sdk.chat.completions.create(model=MODEL, messages=HI)
        await sdk.chat.completions.create(model=MODEL, messages=HI, store=False)
        assert not house.owners.claimed

    async def test_lists_show_ones_own(self, sdk: openai.AsyncOpenAI, house: House) -> None:
        """A list among others' completions shows one's own, in pages as large as asked, to the end."""
        ids = []
        for number in range(260):
            made = await sdk.chat.completions.create(model=MODEL, messages=HI, store=True, max_tokens=1)
            if number % 52 == 51:
                ids.append(made.id)
        others = [resource for resource in house.owners.claimed if resource.id not in ids]
        for resource in others:
            house.owners.forget(resource, 1)
        listed = await sdk.chat.completions.list(limit=2)
        assert [completion.id for completion in listed.data] == ids[:2]
        assert listed.has_more
        assert [completion.id async for completion in await sdk.chat.completions.list(limit=2)] == ids
        assert [completion.id async for completion in await sdk.chat.completions.list(after=ids[2])] == ids[3:]
        with pytest.raises(openai.NotFoundError):
            await sdk.chat.completions.list(after=others[0].id)


class TestAudio:
    """Spoken answers, which a later request may name."""

    @pytest.mark.parametrize("stream", [False, True])
    async def test_going_on(self, sdk: openai.AsyncOpenAI, house: House, stream: bool) -> None:
        """What was said can be gone on from; what others heard cannot."""
        options: Any = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "pcm16"}}
        made: Any = await sdk.chat.completions.create(model="gpt-audio", messages=HI, stream=stream, **options)
        if stream:
            deltas = [chunk.choices[0].delta.model_dump() async for chunk in made if chunk.choices]
            [audio_id] = filter(None, ((delta.get("audio") or {}).get("id") for delta in deltas))
        else:
            audio_id = made.choices[0].message.audio.id
        assert claimed(house) == {("audio", audio_id)}
        again: Any = [*HI, {"role": "assistant", "audio": {"id": audio_id}}, *HI]
        assert await sdk.chat.completions.create(model="gpt-audio", messages=again, **options)
        again[1]["audio"]["id"] = "audio_others"
        with pytest.raises(openai.NotFoundError):
            await sdk.chat.completions.create(model="gpt-audio", messages=again, **options)


class TestModerations:
    """Moderations: free, and booked as such."""

    async def test_moderate(self, sdk: openai.AsyncOpenAI, house: House) -> None:
        """No price list names the model, and yet a row says that it was free."""
        judged = await sdk.moderations.create(input=["Some violence.", "A flower."])
        assert [result.flagged for result in judged.results] == [True, False]
        [row] = house.ledger.rows
        assert (row.how, row.amount_nanos, row.hold_nanos, row.outcome) == ("captured", 0, 0, "completed")
        assert row.usage.input > 0
        assert house.ledger.placed[0].model == "omni-moderation-latest"

    async def test_without_credit(self) -> None:
        """What is free needs no credit."""
        async with built(ledger=FakeLedger(balance_nanos=0)) as house, client_of(house) as sdk:
            parts: Any = [{"type": "text", "text": "A flower."}]
            assert not (await sdk.moderations.create(model="omni-moderation-latest", input=parts)).results[0].flagged
            assert (await sdk.conversations.create()).id


def everything(client: openai.OpenAI) -> list[int]:
    """Every endpoint of a provider's store, through the SDK's raw face; the statuses of the answers."""
    responses, conversations = client.responses.with_raw_response, client.conversations.with_raw_response
    completions, items = client.chat.completions.with_raw_response, client.conversations.items.with_raw_response
    made = responses.create(model=MODEL, input="Hi")
    response_id = made.parse().id
    background = responses.create(model=MODEL, input="Hi", background=True)
    conversation = conversations.create(items=HI)
    conversation_id = conversation.parse().id
    added = items.create(conversation_id, items=HI)
    item_id: Any = added.parse().data[0].id
    stored = completions.create(model=MODEL, messages=HI, store=True)
    stored_id = stored.parse().id
    answers: list[Any] = [
        made,
        background,
        conversation,
        added,
        stored,
        responses.retrieve(response_id),
        responses.compact(model=MODEL, previous_response_id=response_id),
        responses.cancel(background.parse().id),
        client.responses.input_items.with_raw_response.list(response_id),
        client.responses.input_tokens.with_raw_response.count(model=MODEL, input="Hi"),
        conversations.retrieve(conversation_id),
        conversations.update(conversation_id, metadata={}),
        items.list(conversation_id),
        items.retrieve(item_id, conversation_id=conversation_id),
        items.delete(item_id, conversation_id=conversation_id),
        completions.retrieve(stored_id),
        completions.update(stored_id, metadata={}),
        completions.list(),
        client.chat.completions.messages.with_raw_response.list(stored_id),
        client.moderations.with_raw_response.create(input="A flower."),
        completions.delete(stored_id),
        conversations.delete(conversation_id),
        responses.delete(response_id),
    ]
    for answer in answers:
        assert answer.parse() is not None or answer.http_request.method == "DELETE"
        assert answer.headers["x-meterproxy-request-id"]
    return [answer.status_code for answer in answers]


async def test_the_synchronous_sdk_over_every_endpoint(house: House) -> None:
    """The blocking client reaches each endpoint, raw and parsed; only what is metered leaves rows."""

    def ask() -> list[int]:
        with openai.OpenAI(base_url=f"http://127.0.0.1:{house.port}/v1", api_key=SECRET, max_retries=0) as client:
            return everything(client)

    assert await asyncio.to_thread(ask) == [200] * 23
    rows = [row for row in house.ledger.rows if row.how == "captured"]
    assert len(rows) == 5
    assert not house.ledger.open
