"""Directions of text: the characters by which a name turns round what stands beside it.

Source: Unicode's bidirectional algorithm (UAX #9), explicit embeddings, overrides and isolates.
"""

from typing import Final

_TURNS: Final = dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A)))


def in_its_direction(text: str) -> str:
    """The text without them; marks, which turn nothing round and honest names have, stay."""
    return text if text.isascii() else text.translate(_TURNS)
