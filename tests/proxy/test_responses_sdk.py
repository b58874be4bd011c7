"""OpenAI's own SDK over everything that a provider stores: responses, conversations, stored completions, moderations."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from meterproxy.core.resource import Resource
from tests.proxy.fakes import SECRET
from tests.proxy.house import House, built

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
