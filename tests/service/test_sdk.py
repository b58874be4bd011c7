"""The real OpenAI SDK, sync and async, against a whole meterproxy: it cannot tell, and the books are exact."""

import asyncio
import base64
import struct
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import aiohttp
import httpx2
import openai
import orjson
import pytest
import pytest_asyncio
from pydantic import BaseModel

from meterproxy.core.money import format_usd, parse_usd
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


# ── the SDK cannot tell ─────────────────────────────────────────────────────────────────────────────────────────────

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
FREE_TEXT = {"type": "custom", "custom": {"name": "write_poem"}}
PERSON = {
    "type": "json_schema",
    "json_schema": {
        "name": "person",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
            "required": ["name", "age"],
            "additionalProperties": False,
        },
    },
}
PICTURE = "data:image/png;base64,iVBORw0KGgo="
SEEN = [
    {"type": "text", "text": "What is this?"},
    {"type": "image_url", "image_url": {"url": PICTURE, "detail": "low"}},
]

CHATS: dict[str, dict[str, Any]] = {
    "plain": {},
    "unicode": {"messages": [{"role": "user", "content": "Grüße, 世界 👋🏽 \u2028 <|endoftext|>"}]},
    "maximum": {"max_completion_tokens": 3},
    "many": {"n": 3},
    "stop": {"stop": ["e", "o"]},
    "logprobs": {"logprobs": True, "top_logprobs": 2},
    "tool": {"tools": [WEATHER], "tool_choice": "required"},
    "chosen tool": {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "get_weather"}}},
    "free tool": {"model": "gpt-5-mini", "tools": [FREE_TEXT], "tool_choice": "required"},
    "after a tool": {
        "tools": [WEATHER],
        "messages": [
            *HELLO,
            {
                "role": "assistant",
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "rain"},
        ],
    },
    "structured": {"response_format": PERSON},
    "json": {"response_format": {"type": "json_object"}},
    "picture": {"messages": [{"role": "user", "content": SEEN}]},
    "reasoning": {"model": "gpt-5-nano", "reasoning_effort": "high"},
    "no reasoning": {"model": "gpt-5-nano", "reasoning_effort": "minimal", "verbosity": "low"},
    "audio": {
        "model": "gpt-audio",
        "modalities": ["text", "audio"],
        "audio": {"voice": "alloy", "format": "pcm16"},
    },
    "tier": {"model": "gpt-5-mini", "service_tier": "flex"},
    "prediction": {"prediction": {"type": "content", "content": "What a day it was."}},
}
"""Requests that differ from a plain one; streamed ones cannot be spoken in the formats of plain ones, nor the reverse."""


def told(answer: BaseModel) -> Any:
    """An answer without what differs between any two."""
    members = answer.model_dump(exclude_unset=True)
    for name in ("id", "created", "obfuscation"):
        members.pop(name, None)
    for choice in members.get("choices", ()):
        for message in (choice.get("message"), choice.get("delta")):
            ((message or {}).get("audio") or {}).pop("expires_at", None)
    return members


@pytest_asyncio.fixture(loop_scope="session")
async def direct(shared: Service) -> AsyncIterator[openai.AsyncOpenAI]:
    """The SDK at the provider itself."""
    async with openai.AsyncOpenAI(base_url=shared.provider, api_key="sk-provider", max_retries=0) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="session")
async def client(shared: Service) -> AsyncIterator[openai.AsyncOpenAI]:
    """The SDK at the proxy, with a key of a customer of its own."""
    _, key = await shared.customer("50.00")
    async with _async(shared, key) as client:
        yield client


@pytest.mark.parametrize("name", CHATS)
async def test_a_chat_is_what_the_provider_would_have_said(
    client: openai.AsyncOpenAI, direct: openai.AsyncOpenAI, name: str
) -> None:
    """Plain and streamed, with and without usage: every member that the SDK shows is the provider's."""
    request = {"model": "gpt-4o-mini", "messages": HELLO, **CHATS[name]}
    ours, theirs = [told(await side.chat.completions.create(**request)) for side in (client, direct)]
    assert ours == theirs
    for options in ({}, {"stream_options": {"include_usage": True}}, {"stream_options": {"include_usage": False}}):
        streams = [
            [told(chunk) async for chunk in await side.chat.completions.create(**request, **options, stream=True)]
            for side in (client, direct)
        ]
        assert streams[0] == streams[1]
        assert len(streams[0]) > 1


@pytest.mark.parametrize(
    "request_",
    [
        {"prompt": "Once upon"},
        {"prompt": ["a", "b"], "n": 2, "max_tokens": 4},
        {"prompt": [9906, 1917], "echo": True, "max_tokens": 2},
        {"prompt": "Once", "best_of": 3, "logprobs": 1, "max_tokens": 4},
    ],
)
async def test_a_completion_is_what_the_provider_would_have_said(
    client: openai.AsyncOpenAI, direct: openai.AsyncOpenAI, request_: dict[str, Any]
) -> None:
    """The older endpoint, plain and streamed."""
    request = {"model": "gpt-3.5-turbo-instruct", **request_}
    ours, theirs = [told(await side.completions.create(**request)) for side in (client, direct)]
    assert ours == theirs
    if "best_of" not in request:
        streams = [
            [told(chunk) async for chunk in await side.completions.create(**request, stream=True)]
            for side in (client, direct)
        ]
        assert streams[0] == streams[1]


async def test_embeddings_are_the_same_numbers_in_both_encodings(
    client: openai.AsyncOpenAI, direct: openai.AsyncOpenAI
) -> None:
    """As floats, as base64, and as the SDK asks by itself."""
    request: dict[str, Any] = {"model": "text-embedding-3-small", "input": ["a", "b"], "dimensions": 8}
    floats = await client.embeddings.create(**request, encoding_format="float")
    coded = await client.embeddings.create(**request, encoding_format="base64")
    usual = await client.embeddings.create(**request)
    theirs = await direct.embeddings.create(**request)
    assert told(usual) == told(theirs)
    for at in range(2):
        text: Any = coded.data[at].embedding
        assert list(struct.unpack("<8f", base64.b64decode(text))) == usual.data[at].embedding
        assert floats.data[at].embedding == pytest.approx(usual.data[at].embedding, abs=1e-6)
    assert usual.usage.prompt_tokens == 2


async def test_the_streaming_helper_sees_text_tools_and_structure(client: openai.AsyncOpenAI) -> None:
    """`client.chat.completions.stream` gathers what was streamed into what a plain call would have given."""

    class Person(BaseModel):
        name: str
        age: int

    async with client.chat.completions.stream(model="gpt-4o-mini", messages=HELLO) as stream:
        text = "".join([event.delta async for event in stream if event.type == "content.delta"])
        assert text == (await stream.get_final_completion()).choices[0].message.content
    async with client.chat.completions.stream(model="gpt-4o", messages=HELLO, response_format=Person) as stream:
        assert isinstance((await stream.get_final_completion()).choices[0].message.parsed, Person)
    tools = {"tools": [WEATHER], "tool_choice": "required"}
    async with client.chat.completions.stream(model="gpt-4o", messages=HELLO, **tools) as stream:
        done = [event async for event in stream if event.type == "tool_calls.function.arguments.done"]
    plain = await client.chat.completions.create(model="gpt-4o", messages=HELLO, **tools)
    (call,) = plain.choices[0].message.tool_calls or ()
    assert call.type == "function"
    assert [(event.name, event.arguments) for event in done] == [("get_weather", call.function.arguments)]


async def test_raw_and_streaming_responses(client: openai.AsyncOpenAI, direct: openai.AsyncOpenAI) -> None:
    """`with_raw_response` and `with_streaming_response` give the provider's very bytes."""
    request: dict[str, Any] = {"model": "gpt-4o-mini", "messages": HELLO, "max_tokens": 9}
    raw = await client.chat.completions.with_raw_response.create(**request)
    assert raw.status_code == 200
    assert raw.parse().choices[0].message.content
    lengths = []
    for side in (client, direct):
        async with side.chat.completions.with_streaming_response.create(**request, stream=True) as response:
            body = b"".join([piece async for piece in response.iter_bytes()])
            assert body.endswith(b"data: [DONE]\n\n")
            lengths.append(body.count(b"\n\n"))
    assert lengths[0] == lengths[1]


async def test_the_synchronous_client_does_the_same(shared: Service) -> None:
    """Raw responses, the streaming helper, and a stream that is left in the middle."""
    _, key = await shared.customer()

    def talk() -> None:
        with openai.OpenAI(base_url=shared.base_url, api_key=key, max_retries=0) as client:
            chats = client.chat.completions
            raw = chats.with_raw_response.create(model="gpt-4o-mini", messages=HELLO)
            assert raw.headers["x-meterproxy-cost"]
            with chats.stream(model="gpt-4o-mini", messages=HELLO) as stream:
                assert stream.get_final_completion().choices[0].message.content
            with chats.create(model="gpt-4o-mini", messages=HELLO, stream=True) as left:
                assert next(left).choices
            with chats.with_streaming_response.create(model="gpt-4o-mini", messages=HELLO) as response:
                assert response.json()["choices"]

    await asyncio.to_thread(talk)


# ── headers ─────────────────────────────────────────────────────────────────────────────────────────────────────────

NOT_FOR_CLIENTS = (
    "set-cookie server via alt-svc strict-transport-security cf-ray cf-cache-status openai-organization openai-project"
    " access-control-allow-origin nel report-to content-security-policy transfer-encoding connection"
).split()


async def provider_calls(shared: Service, words: str) -> list[dict[str, Any]]:
    """What the provider got of requests with these words in them."""
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{shared.provider.removesuffix('/v1')}/_simulator/calls") as answer:
            calls = (await answer.json())["calls"]
    return [call for call in calls if words in call["body"]]


def saying(words: str) -> list[Any]:
    return [{"role": "user", "content": words}]


async def test_answers_carry_our_headers_and_none_of_the_providers_edge(client: openai.AsyncOpenAI) -> None:
    """The request's id, cost and balance are there; cookies, servers, rate limits and accounts of others are not."""
    faults = "[[simulate: header=NEL: x]] [[simulate: header=Access-Control-Allow-Origin: *]]"
    for words in ("Say hello.", faults):
        raw = await client.chat.completions.with_raw_response.create(model="gpt-4o-mini", messages=saying(words))
        names = {name.lower() for name in raw.headers}
        assert not names.intersection(NOT_FOR_CLIENTS)
        assert not any(name.startswith(("x-ratelimit-", "cf-")) for name in names)
        assert {"x-meterproxy-request-id", "x-meterproxy-cost", "x-meterproxy-balance"} <= names
        assert raw.headers["x-request-id"].startswith("req_")
        assert {"openai-processing-ms", "openai-version", "content-type"} <= names
    stream = await client.chat.completions.with_raw_response.create(model="gpt-4o-mini", messages=HELLO, stream=True)
    assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert "x-meterproxy-request-id" in stream.headers
    assert not {name.lower() for name in stream.headers}.intersection({*NOT_FOR_CLIENTS} - {"transfer-encoding"})
    await drained(stream.parse())


async def test_what_a_request_belongs_to_is_booked_and_not_forwarded(shared: Service) -> None:
    """Conversation and tags are in the row; the provider sees neither them nor who asked."""
    account, key = await shared.customer()
    words = f"call me {uuid4()}"
    headers = {"X-Meterproxy-Conversation": "talk-1", "X-Meterproxy-Tags": "team=search, run=42", "Cookie": "a=b"}
    async with openai.AsyncOpenAI(
        base_url=shared.base_url, api_key=key, organization="org-ours", project="proj-ours", max_retries=0
    ) as client:
        raw = await client.chat.completions.with_raw_response.create(
            model="gpt-4o-mini",
            messages=saying(words),
            extra_headers={**headers, "Idempotency-Key": "mine", "X-Forwarded-For": "10.0.0.1", "X-Custom": "kept"},
        )
    await shared.balance_nanos(account)
    row = await shared.admin("GET", f"/admin/usage/{raw.headers['x-meterproxy-request-id']}", status=200)
    assert (row["conversation"], row["tags"]) == ("talk-1", {"team": "search", "run": "42"})
    (call,) = await provider_calls(shared, words)
    got = {name.lower(): value for name, value in call["headers"]}
    assert got["authorization"] == "Bearer sk-provider"
    assert got["x-custom"] == "kept"
    assert len(got["idempotency-key"]) == 64
    assert not {"cookie", "openai-organization", "openai-project", "x-forwarded-for"}.intersection(got)
    assert not any(name.startswith("x-meterproxy") for name in got)
    assert key not in str(call)


# ── errors and retries ──────────────────────────────────────────────────────────────────────────────────────────────


FAULTS: list[tuple[str, type[openai.APIStatusError], str | None]] = [
    ("status=400, code=context_length_exceeded", openai.BadRequestError, "context_length_exceeded"),
    ("status=404", openai.NotFoundError, "model_not_found"),
    ("status=409", openai.ConflictError, None),
    ("status=422", openai.UnprocessableEntityError, None),
    ("status=429", openai.RateLimitError, "rate_limit_exceeded"),
    ("status=500", openai.InternalServerError, None),
    ("status=503", openai.InternalServerError, None),
    ("status=403", openai.InternalServerError, "upstream_account"),
    ("drop", openai.InternalServerError, "upstream_unreachable"),
]
BROKEN_PLAIN = ("cut=20", openai.InternalServerError, "upstream_unreachable")


@pytest.mark.parametrize(
    ("fault", "raised", "code", "stream"),
    [*((*fault, stream) for fault in FAULTS for stream in (False, True)), (*BROKEN_PLAIN, False)],
)
async def test_each_fault_of_a_provider_is_its_own_exception(
    shared: Service, fault: str, raised: type[openai.APIStatusError], code: str | None, stream: bool
) -> None:
    """Its own errors pass as they are; ours stand for those about our account or our connection."""
    _, key = await shared.customer()
    request: dict[str, Any] = {"messages": saying(f"[[simulate: {fault}]]"), "stream": stream}
    async with _async(shared, key) as client:
        with pytest.raises(raised) as error:
            await client.chat.completions.create(model="gpt-4o-mini", **request)
    assert type(error.value) is raised
    assert error.value.code == code
    assert error.value.response.headers["x-meterproxy-request-id"]
    assert error.value.request_id


async def test_a_key_that_may_not_is_a_permission_error(shared: Service) -> None:
    """A refusal of ours is the class that the SDK has for it."""
    _, key = await shared.customer(operations=["embedding"])
    async with _async(shared, key) as client:
        with pytest.raises(openai.PermissionDeniedError) as error:
            await client.chat.completions.create(model="gpt-4o-mini", messages=HELLO)
    assert error.value.code == "permission_denied"


async def test_a_stream_that_breaks_raises_where_it_breaks(client: openai.AsyncOpenAI) -> None:
    """What came before is delivered, then the SDK raises what the error event says."""
    for fault in ("cut=4", "cut_rst=4", "error_event"):
        stream = await client.chat.completions.create(
            model="gpt-4o-mini", messages=saying(f"[[simulate: {fault}, tokens=20]]"), stream=True
        )
        assert (await anext(aiter(stream))).choices
        with pytest.raises(openai.APIError) as error:
            await drained(stream)
        assert type(error.value) is openai.APIError


async def drained(stream: openai.AsyncStream[Any]) -> None:
    """Read a stream to its end."""
    async for _ in stream:
        pass


async def test_timeouts_and_connections_are_the_clients_own(shared: Service) -> None:
    """A client that waits less than the provider takes times out; nobody listening is a connection error."""
    account, key = await shared.customer()
    async with openai.AsyncOpenAI(base_url=shared.base_url, api_key=key, max_retries=0, timeout=0.2) as client:
        with pytest.raises(openai.APITimeoutError):
            await client.chat.completions.create(model="gpt-4o-mini", messages=saying("[[simulate: delay=0.6]]"))
    async with openai.AsyncOpenAI(base_url="http://127.0.0.1:1/v1", api_key=key, max_retries=0) as client:
        with pytest.raises(openai.APIConnectionError):
            await client.models.list()
    async with asyncio.timeout(20):
        while not (await shared.admin("GET", f"/admin/accounts/{account}/transactions"))["data"][0]["request_id"]:
            await asyncio.sleep(0.02)  # the provider billed the call that its client did not wait for


@pytest.mark.parametrize(("status", "tried"), [(429, 3), (500, 3), (409, 3), (400, 1)])
async def test_the_sdk_retries_a_provider_as_it_would_without_us(shared: Service, status: int, tried: int) -> None:
    """Each retry is a request of ours and a call of the provider's, and the waiting time is the provider's own."""
    _, key = await shared.customer()
    words = f"[[simulate: status={status}, retry_after=0.01]] {uuid4()}"
    sent: list[httpx2.Request] = []
    async with openai.AsyncOpenAI(
        base_url=shared.base_url, api_key=key, max_retries=2, http_client=_counting(sent)
    ) as client:
        with pytest.raises(openai.APIStatusError):
            await client.chat.completions.create(model="gpt-4o-mini", messages=saying(words))
    assert len(sent) == tried
    calls = await provider_calls(shared, words)
    retries = [dict(call["headers"])["x-stainless-retry-count"] for call in calls]
    assert retries == [str(at) for at in range(tried)]


async def test_spent_credit_is_not_retried(shared: Service) -> None:
    """One request, no call of the provider."""
    _, poor = await shared.customer("0")
    words, sent = str(uuid4()), list[httpx2.Request]()
    async with openai.AsyncOpenAI(
        base_url=shared.base_url, api_key=poor, max_retries=5, http_client=_counting(sent)
    ) as client:
        with pytest.raises(openai.RateLimitError) as error:
            await client.chat.completions.create(model="gpt-4o-mini", messages=saying(words))
    assert (error.value.code, error.value.type) == ("insufficient_quota", "insufficient_quota")
    assert len(sent) == 1
    assert await provider_calls(shared, words) == []


def _counting(sent: list[httpx2.Request]) -> httpx2.AsyncClient:
    async def count(request: httpx2.Request) -> None:
        sent.append(request)

    return openai.DefaultAsyncHttpxClient(event_hooks={"request": [count]})


# ── what it costs ───────────────────────────────────────────────────────────────────────────────────────────────────

TOLD_USAGE = (
    # reads: tier above 272,000 tokens for all of it: 5 / 0.5 / 22.5 dollars per million
    (
        "gpt-5.4",
        {},
        {
            "prompt_tokens": 300_000,
            "completion_tokens": 1_000,
            "prompt_tokens_details": {"cached_tokens": 100_000},
            "completion_tokens_details": {"reasoning_tokens": 400},
        },
        200_000 * 5_000 + 100_000 * 500 + 1_000 * 22_500,
    ),
    # the same model below the tier: 2.5 / 0.25 / 15
    (
        "gpt-5.4",
        {},
        {
            "prompt_tokens": 272_000,
            "completion_tokens": 1_000,
            "prompt_tokens_details": {"cached_tokens": 100_000},
            "completion_tokens_details": {"reasoning_tokens": 1_000},
        },
        172_000 * 2_500 + 100_000 * 250 + 1_000 * 15_000,
    ),
    # flex, with tokens written to the cache: 2 / 0.2 / 2.5 / 10
    (
        "gpt-5.6-sol",
        {"service_tier": "flex"},
        {
            "prompt_tokens": 2_000,
            "completion_tokens": 300,
            "prompt_tokens_details": {"cached_tokens": 500, "cache_write_tokens": 700},
            "completion_tokens_details": {"reasoning_tokens": 100},
        },
        800 * 2_000 + 500 * 200 + 700 * 2_500 + 300 * 10_000,
    ),
    # spoken and heard: 2.5 and 32 in, 10 and 64 out
    (
        "gpt-audio",
        {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "pcm16"}},
        {
            "prompt_tokens": 90,
            "completion_tokens": 70,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 40},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 50},
        },
        50 * 2_500 + 40 * 32_000 + 20 * 10_000 + 50 * 64_000,
    ),
)


@pytest.mark.parametrize(("model", "changes", "usage", "nanos"), TOLD_USAGE)
@pytest.mark.parametrize("stream", [False, True])
async def test_amounts_follow_usage_tiers_and_kinds(
    shared: Service, model: str, changes: Any, usage: dict[str, Any], nanos: int, stream: bool
) -> None:
    """Cached, written, reasoning and audio tokens each at their price, to the nanodollar, in row, entry and balance."""
    account, key = await shared.customer("20.00")
    words = f"[[simulate: usage={orjson.dumps(usage).decode()}]]"
    async with _async(shared, key) as client:
        raw = await client.chat.completions.with_raw_response.create(
            model=model, messages=saying(words), max_completion_tokens=2_000, stream=stream, **changes
        )
        if stream:
            await drained(raw.parse())
    assert await shared.balance_nanos(account) == 20 * 10**9 - nanos
    row = await shared.admin("GET", f"/admin/usage/{raw.headers['x-meterproxy-request-id']}", status=200)
    assert (row["usage_source"], row["status"], row["stream"]) == ("provider", 200, stream)
    details = usage["prompt_tokens_details"] | usage["completion_tokens_details"]
    assert row["usage"].get("cache_read", 0) == details["cached_tokens"]
    assert row["usage"].get("reasoning", 0) == details["reasoning_tokens"]
    assert sum(row["usage"].values()) - 1 == usage["prompt_tokens"] + usage["completion_tokens"]
    assert row["amount"] == row["cost"] == format_usd(nanos)
    assert sum(parse_usd(entry["amount"]) for entry in row["entries"]) == -nanos
    if not stream:
        assert raw.headers["x-meterproxy-cost"] == format_usd(nanos)


async def test_prompts_that_the_provider_remembers_cost_less(client: openai.AsyncOpenAI) -> None:
    """The second time a long prompt is read from the provider's cache, and charged so."""
    messages = saying(f"{uuid4()} " + "word " * 1500)
    costs, cached = [], []
    for _ in range(2):
        raw = await client.chat.completions.with_raw_response.create(model="gpt-4o-mini", messages=messages)
        usage = raw.parse().usage
        assert usage is not None
        assert usage.prompt_tokens_details is not None
        read = usage.prompt_tokens_details.cached_tokens or 0
        nanos = (usage.prompt_tokens - read) * 150 + read * 75 + usage.completion_tokens * 600
        assert raw.headers["x-meterproxy-cost"] == format_usd(nanos)
        cached.append(read)
        costs.append(nanos)
    assert cached[0] == 0 < cached[1]
    assert costs[1] < costs[0]
