"""A running simulated provider, the real SDK pointed at it, and a raw client for what the SDK hides."""

from collections.abc import AsyncIterator

import aiohttp
import openai
import pytest

from meterproxy.simulator.app import running


@pytest.fixture
async def base_url() -> AsyncIterator[str]:
    async with running() as url:
        yield url


@pytest.fixture
async def sdk(base_url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=base_url, api_key="sk-test", max_retries=0) as client:
        yield client


@pytest.fixture
async def http(base_url: str) -> AsyncIterator[aiohttp.ClientSession]:
    headers = {"Authorization": "Bearer sk-test"}
    async with aiohttp.ClientSession(base_url.removesuffix("v1"), headers=headers, auto_decompress=False) as session:
        yield session
