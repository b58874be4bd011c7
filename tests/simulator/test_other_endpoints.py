"""Completions, embeddings, models, credentials, and what is remembered of calls."""

import math
from typing import Any

import aiohttp
import openai
import pytest

from meterproxy.simulator.app import running
from meterproxy.simulator.settings import SimulatorSettings
from meterproxy.simulator.vocabulary import count_tokens

INSTRUCT = "gpt-3.5-turbo-instruct"


async def test_completions_stream_as_plain(sdk: openai.AsyncOpenAI) -> None:
    """Texts of all prompts and choices, and usage, are equal in both forms."""
    request: dict[str, Any] = {
        "model": INSTRUCT,
        "prompt": ["one two", "three"],
        "n": 2,
        "echo": True,
        "max_tokens": 20,
    }
    plain = await sdk.completions.create(**request)
    events = await sdk.completions.create(**request, stream=True, stream_options={"include_usage": True})
    texts, usage = {}, None
    async for event in events:
        usage = event.usage
        for choice in event.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
    assert texts == {choice.index: choice.text for choice in plain.choices}
    assert usage == plain.usage
    assert [choice.text[:5] for choice in plain.choices] == ["one t", "one t", "three", "three"]


async def test_completions_count_truly(sdk: openai.AsyncOpenAI) -> None:
    """`best_of` is billed, sixteen tokens are the default, arrays of tokens count themselves."""
    completion = await sdk.completions.create(model=INSTRUCT, prompt=[[1, 2, 3], [4]], best_of=3)
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (4, 2 * 3 * 16)
    assert [count_tokens("cl100k_base", choice.text) for choice in completion.choices] == [16, 16]
    assert {choice.finish_reason for choice in completion.choices} == {"length"}


@pytest.mark.parametrize(
    ("given", "tokens", "vectors"),
    [("hello world", 2, 1), (["hello world", "a"], 3, 2), ([1, 2, 3], 3, 1), ([[1, 2], [3], [4]], 4, 3)],
)
async def test_embeddings(sdk: openai.AsyncOpenAI, given: Any, tokens: int, vectors: int) -> None:
    """One unit vector for each input, the same in both formats, counted by tokens."""
    made = [
        await sdk.embeddings.create(
            model="text-embedding-3-small", input=given, dimensions=64, encoding_format=encoding_format
        )
        for encoding_format in ("float", "base64")
    ]
    default = await sdk.embeddings.create(model="text-embedding-3-small", input=given, dimensions=64)
    assert default.data[0].embedding == pytest.approx(made[0].data[0].embedding, abs=1e-6)
    assert isinstance(made[1].data[0].embedding, str)
    assert made[0].usage.prompt_tokens == made[0].usage.total_tokens == tokens
    assert len(made[0].data) == vectors
    assert math.hypot(*made[0].data[0].embedding) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        {"input": ""},
        {"input": []},
        {"input": ["a"] * 2_049},
        {"input": {"a": 1}},
        {"input": [1.5]},
        {"input": "word " * 9_000},
        {"dimensions": 4_000},
        {"input": None},
    ],
    ids=lambda change: str(change)[:30],
)
async def test_embeddings_refused(sdk: openai.AsyncOpenAI, change: dict[str, Any]) -> None:
    """What cannot be embedded is a 400."""
    with pytest.raises(openai.BadRequestError):
        await sdk.post("/embeddings", body={"model": "text-embedding-3-small", "input": "a", **change}, cast_to=object)


async def test_models(sdk: openai.AsyncOpenAI) -> None:
    """The list has real models and one that nobody has a price for; snapshots are found by name."""
    listed = [model.id async for model in sdk.models.list()]
    assert {"gpt-4o", "gpt-5", "o4-mini", "text-embedding-3-large", INSTRUCT, "sim-unpriced-1"} <= set(listed)
    assert (await sdk.models.retrieve("gpt-4o-2024-08-06")).id == "gpt-4o-2024-08-06"
    with pytest.raises(openai.NotFoundError):
        await sdk.models.retrieve("gpt-17")


@pytest.mark.parametrize(
    ("headers", "code"),
    [({}, None), ({"Authorization": "Basic eA=="}, None), ({"Authorization": "Bearer sk-wrong"}, "invalid_api_key")],
)
async def test_credentials(headers: dict[str, str], code: str | None) -> None:
    """A missing credential and a wrong one are 401, told apart by their code."""
    async with running(SimulatorSettings(key="sk-right")) as url, aiohttp.ClientSession() as session:
        async with session.get(f"{url}/models", headers=headers) as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (401, code)
        async with session.get(f"{url}/models", headers={"Authorization": "Bearer sk-right"}) as answer:
            assert answer.status == 200


async def test_unknown_path_and_bad_json(http: aiohttp.ClientSession) -> None:
    """Both are refused in OpenAI's shape."""
    async with http.post("/v1/nothing/here", json={}) as answer:
        assert answer.status == 404
        assert (await answer.json())["error"]["message"] == "Invalid URL (POST /v1/nothing/here)"
    for body in (b"{", b"[]", b""):
        async with http.post("/v1/chat/completions", data=body) as answer:
            assert answer.status == 400
            assert (await answer.json())["error"]["type"] == "invalid_request_error"


async def test_headers(http: aiohttp.ClientSession) -> None:
    """Answers carry OpenAI's headers, and those of the network before it."""
    async with http.get("/v1/models") as answer:
        assert answer.headers["x-request-id"].startswith("req_")
        named = {"openai-processing-ms", "openai-version", "openai-organization", "x-ratelimit-limit-tokens"}
        assert named <= set(map(str.lower, answer.headers))
        assert {"set-cookie", "cf-ray", "alt-svc"} <= set(map(str.lower, answer.headers))


async def test_calls_are_remembered(http: aiohttp.ClientSession) -> None:
    """Tests can see what arrived, and reset it."""
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "h\u00e9"}]}
    async with http.post("/v1/chat/completions", json=body, headers={"X-Probe": "1"}) as answer:
        await answer.read()
    async with http.get("/_simulator/calls") as answer:
        seen = await answer.json()
    assert (seen["count"], seen["total"]) == ({"/v1/chat/completions": 1}, 1)
    assert ["X-Probe", "1"] in seen["calls"][0]["headers"]
    assert '"gpt-4o"' in seen["calls"][0]["body"]
    assert (seen["calls"][0]["status"], seen["calls"][0]["ended"]) == (200, "complete")
    async with http.post("/_simulator/reset") as answer:
        assert answer.status == 204
    async with http.get("/_simulator/calls") as answer:
        assert (await answer.json())["total"] == 0


async def test_fail_rate_follows_the_seed() -> None:
    """A share of requests fails, the same ones with the same seed."""
    runs = []
    for _ in range(2):
        async with running(SimulatorSettings(fail_rate=0.5, seed=4)) as url, aiohttp.ClientSession() as session:
            statuses = []
            for _ in range(20):
                async with session.get(f"{url}/models", headers={"Authorization": "Bearer x"}) as answer:
                    statuses.append(answer.status)
            runs.append(statuses)
    assert runs[0] == runs[1]
    assert set(runs[0]) == {200, 500}
