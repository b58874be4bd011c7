"""OpenAI's own SDK through the proxy: what it sends passes, what it expects comes."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.proxy.fakes import SECRET, FakeLedger
from tests.proxy.house import House, built

HI: Any = [{"role": "user", "content": "Tell me something."}]


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with built() as house:
        yield house


@pytest.fixture
async def sdk(house: House) -> AsyncIterator[openai.AsyncOpenAI]:
    async with client_of(house) as client:
        yield client


def client_of(house: House, api_key: str = SECRET, **options: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{house.port}/v1", api_key=api_key, **options)


def faults(simulate: str) -> dict[str, str]:
    return {"X-Simulate": simulate}


async def test_chat(sdk: openai.AsyncOpenAI, house: House) -> None:
    """A chat completion is parsed, and booked as it says."""
    answer = await sdk.chat.completions.create(model="gpt-4o", messages=HI)
    assert answer.usage is not None
    assert answer.choices[0].message.content
    [row] = house.ledger.rows
    assert (row.usage.input, row.usage.output) == (answer.usage.prompt_tokens, answer.usage.completion_tokens)


async def test_raw_response(sdk: openai.AsyncOpenAI, house: House) -> None:
    """Cost and id are readable where the SDK shows headers."""
    raw = await sdk.chat.completions.with_raw_response.create(model="gpt-4o", messages=HI)
    assert raw.headers["x-meterproxy-request-id"] == str(house.ledger.rows[0].request_id)
    assert raw.headers["x-meterproxy-cost"]


async def test_sync_client(house: House) -> None:
    """The synchronous client works as well, plain and streamed."""

    def ask() -> tuple[str | None, list[str | None]]:
        with openai.OpenAI(base_url=f"http://127.0.0.1:{house.port}/v1", api_key=SECRET) as client:
            plain = client.chat.completions.create(model="gpt-4o", messages=HI)
            stream = client.chat.completions.create(model="gpt-4o", messages=HI, stream=True)
            return plain.choices[0].message.content, [chunk.choices[0].delta.content for chunk in stream]

    content, pieces = await asyncio.to_thread(ask)
    assert content
    assert len(pieces) > 3


@pytest.mark.parametrize("include_usage", [True, False, None])
async def test_stream(sdk: openai.AsyncOpenAI, house: House, include_usage: bool | None) -> None:
    """Usage comes as the last chunk if it was asked for, else no chunk has any."""
    options: Any = openai.omit if include_usage is None else {"include_usage": include_usage}
    stream = await sdk.chat.completions.create(model="gpt-4o", messages=HI, stream=True, stream_options=options)
    chunks = [chunk async for chunk in stream]
    assert [bool(chunk.usage) for chunk in chunks] == [False] * (len(chunks) - 1) + [bool(include_usage)]
    assert house.ledger.rows[0].source == "provider"


async def test_tools(sdk: openai.AsyncOpenAI, house: House) -> None:
    """A tool call passes, and its name is booked."""
    tool: Any = {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
    answer = await sdk.chat.completions.create(model="gpt-4o", messages=HI, tools=[tool], tool_choice="required")
    assert answer.choices[0].message.tool_calls
    assert house.ledger.rows[0].ending.tools == ("weather",)


class City(BaseModel):
    name: str
    people: int


async def test_structured_output(sdk: openai.AsyncOpenAI) -> None:
    """An answer by schema is parsed into its class."""
    answer = await sdk.chat.completions.parse(model="gpt-4o", messages=HI, response_format=City)
    assert isinstance(answer.choices[0].message.parsed, City)


async def test_embeddings_and_completions(sdk: openai.AsyncOpenAI, house: House) -> None:
    """The other operations pass; the SDK asks for base64 by itself."""
    embeddings = await sdk.embeddings.create(model="text-embedding-3-small", input=["a", "b"])
    assert len(embeddings.data) == 2
    completion = await sdk.completions.create(model="gpt-3.5-turbo-instruct", prompt="Say it.", max_tokens=9)
    assert completion.choices[0].text
    assert [row.source for row in house.ledger.rows] == ["provider", "provider"]


async def test_models(sdk: openai.AsyncOpenAI) -> None:
    """The list and one model are parsed."""
    ids = [model.id async for model in sdk.models.list()]
    assert "gpt-4o" in ids
    assert (await sdk.models.retrieve("gpt-4o")).id == "gpt-4o"
    with pytest.raises(openai.NotFoundError):
        await sdk.models.retrieve("sim-unpriced-1")


@pytest.mark.parametrize(
    ("simulate", "error"),
    [
        ("status=400", openai.BadRequestError),
        ("status=404", openai.NotFoundError),
        ("status=409", openai.ConflictError),
        ("status=422", openai.UnprocessableEntityError),
        ("status=429,code=rate_limit_exceeded", openai.RateLimitError),
        ("status=500", openai.InternalServerError),
        ("status=401", openai.InternalServerError),
        ("drop", openai.InternalServerError),
    ],
)
async def test_error_classes(house: House, simulate: str, error: type[openai.APIStatusError]) -> None:
    """Each error of the provider is the class that the SDK knows; a refusal of our account is none of the client's."""
    async with client_of(house, max_retries=0) as sdk:
        with pytest.raises(error) as raised:
            await sdk.chat.completions.create(model="gpt-4o", messages=HI, extra_headers=faults(simulate))
    assert raised.value.request_id


async def test_our_own_errors(house: House) -> None:
    """A wrong key and an unknown model are told in the SDK's own classes, with the request's id."""
    async with client_of(house, "mp-wrong", max_retries=0) as sdk:
        with pytest.raises(openai.AuthenticationError) as refused:
            await sdk.chat.completions.create(model="gpt-4o", messages=HI)
    assert refused.value.code == "invalid_api_key"
    assert refused.value.request_id
    async with client_of(house, max_retries=0) as sdk:
        with pytest.raises(openai.NotFoundError) as unpriced:
            await sdk.chat.completions.create(model="sim-unpriced-1", messages=HI)
    assert unpriced.value.code == "model_not_priced"


async def test_insufficient_quota_is_not_retried() -> None:
    """The SDK gives up at once where the credit is spent."""
    async with built(ledger=FakeLedger(balance_nanos=0)) as house, client_of(house, max_retries=2) as sdk:
        with pytest.raises(openai.RateLimitError) as spent:
            await sdk.chat.completions.create(model="gpt-4o", messages=HI)
        assert spent.value.code == "insufficient_quota"
        assert len(house.observer.ended) == 1


async def test_error_in_mid_stream(sdk: openai.AsyncOpenAI) -> None:
    """A stream that breaks raises in the SDK instead of ending as if it were whole."""
    stream = await sdk.chat.completions.create(model="gpt-4o", messages=HI, stream=True, extra_headers=faults("cut=6"))
    with pytest.raises(openai.APIError, match="broke off"):
        _ = [chunk async for chunk in stream]


async def test_client_that_stops_reading(sdk: openai.AsyncOpenAI, house: House) -> None:
    """A stream that its client closes early is read on and booked by the provider's word."""
    stream = await sdk.chat.completions.create(
        model="gpt-4o", messages=HI, stream=True, extra_headers=faults("tokens=30,slow=0.002")
    )
    await anext(aiter(stream))
    await stream.close()
    await house.ended()
    [row] = house.ledger.rows
    assert (row.outcome, row.source, row.usage.output) == ("client_left", "provider", 30)
