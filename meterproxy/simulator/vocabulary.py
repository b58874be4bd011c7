"""Vocabularies: OpenAI's own tokenizers, read from package data once a process."""

from functools import cache
from pathlib import Path
from typing import Final

import tiktoken

from meterproxy.core.vocabulary import encoding_from

_DIRECTORY: Final = Path(__file__).parents[1] / "data" / "encodings"


@cache
def vocabulary(name: str) -> tiktoken.Encoding:
    """Load a vocabulary by its name (`o200k_base` or `cl100k_base`); about 0.2 s the first time."""
    return encoding_from((_DIRECTORY / f"{name}.tiktoken").read_bytes(), name)


def count_tokens(name: str, text: str) -> int:
    """How many tokens `text` is in the vocabulary `name`."""
    return len(vocabulary(name).encode_ordinary(text)) if text else 0
