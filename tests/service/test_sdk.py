"""The real OpenAI SDK, sync and async, against a whole meterproxy: it cannot tell, and the books are exact."""

import asyncio

import openai
import pytest
from pydantic import BaseModel

from tests.service.running import Service

pytestmark = pytest.mark.asyncio(loop_scope="session")

HELLO = [{"role": "user", "content": "Say hello."}]


def _async(shared: Service, key: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=shared.base_url, api_key=key, max_retries=0)


async def test_three_requests_of_known_usage_lower_the_balance_by_exactly_their_sum(shared: Service) -> None:
    """Input at 150 and output at 600 nanodollars a token: gpt-4o-mini's price."""
    account, key = await shared.customer("1.00")
    expected = 10**9
    async with _async(shared, key) as client:
        for tokens in (1, 17, 300):
            answer = await client.chat.completions.create(model="gpt-4o-mini", messages=HELLO, max_tokens=tokens)
            usage = answer.usage
            assert usage is not None
            expected -= 150 * usage.prompt_tokens + 600 * usage.completion_tokens
    assert await shared.balance_nanos(account) == expected


@pytest.mark.parametrize("asked", [True, False])
async def test_a_stream_costs_what_its_usage_says_whether_or_not_the_client_asked_for_it(
    shared: Service, asked: bool
) -> None:
    """Usage shows up exactly where it was asked for; it is booked all the same."""
    account, key = await shared.customer("1.00")
    async with _async(shared, key) as client:
        plain = await client.chat.completions.create(model="gpt-4o-mini", messages=HELLO, max_tokens=40)
        after_plain = await shared.balance_nanos(account)
        options = {"stream_options": {"include_usage": True}} if asked else {}
        stream = await client.chat.completions.create(
            model="gpt-4o-mini", messages=HELLO, max_tokens=40, stream=True, **options
        )
        chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == plain.choices[0].message.content
    assert [chunk.usage is not None for chunk in chunks].count(True) == (1 if asked else 0)
    assert 10**9 - after_plain == after_plain - await shared.balance_nanos(account)


async def test_tools_structured_output_embeddings_and_models(shared: Service) -> None:
    """What people use of the SDK beyond plain chat."""

    class Answer(BaseModel):
        city: str
        population: int

    _, key = await shared.customer()
    async with _async(shared, key) as client:
        tools = [
            {
                "type": "function",
                "function": {
                    "name": "get_weather",
                    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
                },
            }
        ]
        called = await client.chat.completions.create(
            model="gpt-4o", messages=HELLO, tools=tools, tool_choice="required"
        )
        assert called.choices[0].message.tool_calls[0].function.name == "get_weather"
        parsed = await client.chat.completions.parse(model="gpt-4o", messages=HELLO, response_format=Answer)
        assert isinstance(parsed.choices[0].message.parsed, Answer)
        vectors = await client.embeddings.create(model="text-embedding-3-small", input=["a", "b"])
        assert len(vectors.data) == 2
        names = [model.id async for model in client.models.list()]
        assert "gpt-4o-mini" in names
        assert "sim-unpriced-1" not in names
        assert (await client.models.retrieve("gpt-4o-mini")).id == "gpt-4o-mini"
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("sim-unpriced-1")


async def test_the_synchronous_client_streams_and_completes(shared: Service) -> None:
    """The same through the blocking client, in a thread."""
    _, key = await shared.customer()

    def talk() -> tuple[str, str]:
        with openai.OpenAI(base_url=shared.base_url, api_key=key, max_retries=0) as client:
            stream = client.chat.completions.create(model="gpt-4o-mini", messages=HELLO, stream=True, max_tokens=20)
            streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
            done = client.completions.create(model="gpt-3.5-turbo-instruct", prompt="Say hello.", max_tokens=5)
            return streamed, done.choices[0].text

    streamed, completed = await asyncio.to_thread(talk)
    assert streamed
    assert completed


async def test_errors_are_the_classes_that_the_sdk_has_for_them(shared: Service) -> None:
    """Unknown key, unknown model, malformed request, no credit: each its own exception with its code."""
    _, key = await shared.customer()
    _, poor = await shared.customer("0")
    async with _async(shared, "mp-unknown") as client:
        with pytest.raises(openai.AuthenticationError) as unknown:
            await client.chat.completions.create(model="gpt-4o-mini", messages=HELLO)
        assert unknown.value.code == "invalid_api_key"
    async with _async(shared, key) as client:
        with pytest.raises(openai.NotFoundError) as missing:
            await client.chat.completions.create(model="sim-unpriced-1", messages=HELLO)
        assert missing.value.code == "model_not_priced"
        with pytest.raises(openai.BadRequestError):
            await client.chat.completions.create(model="gpt-4o-mini", messages=HELLO, max_tokens=-1)
        with pytest.raises(openai.InternalServerError):
            await client.chat.completions.create(
                model="gpt-4o-mini", messages=[{"role": "user", "content": "[[simulate: status=500]]"}]
            )
    async with openai.AsyncOpenAI(base_url=shared.base_url, api_key=poor, max_retries=2) as client:
        with pytest.raises(openai.RateLimitError) as spent:
            await client.chat.completions.create(model="gpt-4o-mini", messages=HELLO)
        assert spent.value.code == "insufficient_quota"
        assert spent.value.response.headers["x-should-retry"] == "false"
        assert "x-stainless-retry-count" not in spent.value.request.headers or (
            spent.value.request.headers["x-stainless-retry-count"] == "0"
        )
