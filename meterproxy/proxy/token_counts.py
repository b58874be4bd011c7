"""Token counts: what is asked of the tokenizer, and what stands in where it does not answer in time."""

import asyncio
from typing import Final

from meterproxy.proxy.ports import TokenCounter

BYTES_PER_TOKEN: Final = 4
"""A middling text; for what is told on the way."""
INEXACT_FACTOR: Final = 2
"""How far another model's tokenizer may be off."""


async def counted_within(
    counter: TokenCounter, model: str, texts: list[str], seconds: float
) -> tuple[int, bool] | None:
    """Count texts for so many seconds at most; the tokens, and whether it was by the model's own tokenizer."""
    try:
        async with asyncio.timeout(seconds):
            return await counter.count(model, texts)
    except TimeoutError:
        return None


async def at_most(counter: TokenCounter, model: str, texts: list[str], seconds: float) -> int | None:
    """As many tokens as texts can come to by any tokenizer that is near the model's; None where nobody answers."""
    counted = await counted_within(counter, model, texts, seconds)
    if counted is None:
        return None
    tokens, exact = counted
    return tokens if exact else tokens * INEXACT_FACTOR
