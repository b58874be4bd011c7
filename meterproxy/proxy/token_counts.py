"""Token counts: what is asked of the tokenizer, and what stands in where it does not answer in time."""

import asyncio
from typing import Final

from meterproxy.proxy.ports import TokenCounter

BYTES_PER_TOKEN: Final = 4
"""A middling text; for what is told on the way."""
INEXACT_FACTOR: Final = 2
"""How far another model's tokenizer may be off."""
AT_ONCE: Final = 1 << 20
"""Characters that are looked at in one turn of the loop."""
_MERGED: Final = bytes([byte for byte in range(128) if not chr(byte).isdigit()])
"""What all tokenizers put together about alike. Some make a token of each digit, or of each byte beyond ASCII."""


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
    return tokens if exact else tokens * INEXACT_FACTOR + await _lone_bytes(texts)


async def _lone_bytes(texts: list[str]) -> int:
    """How many bytes another tokenizer may make a token of each."""
    lone = 0
    for text in texts:
        for start in range(0, len(text), AT_ONCE):
            lone += len(text[start : start + AT_ONCE].encode("utf-8", "replace").translate(None, _MERGED))
            if start:
                await asyncio.sleep(0)
    return lone
