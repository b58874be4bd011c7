"""What is held for a response covers what it turns out to cost, whatever is asked and whatever the model does."""

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.proxy.fakes import FakeLedger
from tests.proxy.house import House, built

PIXEL = "data:image/png;base64,iVBORw0KGgo="
PARTS = st.sampled_from(
    [
        {"type": "input_text", "text": "Look at this, please. " * 20},
        {"type": "input_image", "image_url": PIXEL, "detail": "low"},
        {"type": "input_image", "image_url": PIXEL, "detail": "high"},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"},
    ]
)
TOOLS = st.sampled_from(
    [
        {"type": "web_search"},
        {"type": "file_search", "vector_store_ids": ["vs_1"]},
        {"type": "mcp", "server_label": "a", "server_url": "https://example.com"},
        {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}},
    ]
)
REQUESTS = st.fixed_dictionaries(
    {
        "model": st.sampled_from(["gpt-4o", "gpt-4o-mini", "gpt-5-mini", "gpt-4.1-nano"]),
        "input": st.one_of(
            st.text(max_size=200),
            st.lists(
                st.fixed_dictionaries({"role": st.just("user"), "content": st.lists(PARTS, min_size=1, max_size=3)}),
                min_size=1,
                max_size=3,
            ),
        ),
    },
    optional={
        "instructions": st.text(max_size=50),
        "tools": st.lists(TOOLS, max_size=3),
        "max_tool_calls": st.integers(0, 5),
        "max_output_tokens": st.integers(16, 400),
        "service_tier": st.sampled_from(["auto", "default", "flex", "priority"]),
        "reasoning": st.fixed_dictionaries({"effort": st.sampled_from(["low", "high"])}),
        "stream": st.booleans(),
        "store": st.booleans(),
    },
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(REQUESTS, st.integers(1, 300), st.integers(0, 12))
def test_hold_covers_the_amount(request_body: dict[str, Any], tokens: int, calls: int) -> None:
    """No answer of the simulated provider, which counts truly, costs more than was held for it."""
    asyncio.run(_ask(request_body, f"tokens={tokens},calls={calls}"))


async def _ask(body: dict[str, Any], simulate: str) -> None:
    async with built(ledger=FakeLedger(balance_nanos=10**13)) as house:
        house.owners.give("vector_store", "vs_1")
        answer = await house.ask("/v1/responses", body, X_Simulate=simulate)
        await house.ended()
        assert answer.status == 200, answer.body
        check(house)


def check(house: House) -> None:
    [row] = house.ledger.rows
    [placed] = house.ledger.placed
    assert (row.how, row.source) == ("captured", "provider")
    assert row.amount_nanos <= row.hold_nanos
    assert row.usage.input_tokens <= placed.bound.input_tokens
    assert row.usage.output_tokens <= placed.bound.output_tokens
    assert row.usage.web_searches <= placed.bound.web_searches
    assert row.usage.file_searches <= placed.bound.file_searches


async def test_lowered_maximum() -> None:
    """Where credit is short, the maximum is written into the request, and the answer keeps to it."""
    async with built(ledger=FakeLedger(balance_nanos=40_000_000)) as house:
        answer = await house.ask("/v1/responses", {"model": "gpt-4o", "input": "Hi"}, X_Simulate="tokens=2000")
        assert answer.status == 200
        lowered = int(answer.headers["x-meterproxy-max-tokens"])
        [call] = await house.calls()
        assert f'"max_output_tokens":{lowered}' in call["body"]
        assert house.ledger.rows[0].usage.output == min(lowered, 2000)
        check(house)


@pytest.mark.parametrize("own", [None, 16])
async def test_out_of_credit(own: int | None) -> None:
    """Without credit nothing is sent."""
    async with built(ledger=FakeLedger(balance_nanos=0)) as house:
        answer = await house.ask("/v1/responses", {"model": "gpt-4o", "input": "Hi", "max_output_tokens": own})
        assert (answer.status, answer.error["code"]) == (429, "insufficient_quota")
        assert not await house.calls()
