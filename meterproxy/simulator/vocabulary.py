"""Vocabularies: OpenAI's own tokenizers, read from package data without any network.

Patterns are those of tiktoken (`tiktoken_ext/openai_public.py`). Only `encode_ordinary` is used: words that look like
special tokens are text like any other.
"""

import base64
from functools import cache
from pathlib import Path
from typing import Final

import tiktoken

_DIRECTORY: Final = Path(__file__).parents[1] / "data" / "encodings"

_CL100K: Final = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
_O200K: Final = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}",
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
    r"\s*[\r\n]+",
    r"\s+(?!\S)",
    r"\s+",
)
_PATTERNS: Final = {"cl100k_base": _CL100K, "o200k_base": "|".join(_O200K)}


@cache
def vocabulary(name: str) -> tiktoken.Encoding:
    """Load a vocabulary by its name (`o200k_base` or `cl100k_base`); about 0.2 s the first time."""
    lines = (_DIRECTORY / f"{name}.tiktoken").read_bytes().splitlines()
    pairs = (line.split() for line in lines if line)
    ranks = {base64.b64decode(token): int(rank) for token, rank in pairs}
    return tiktoken.Encoding(name, pat_str=_PATTERNS[name], mergeable_ranks=ranks, special_tokens={})


def count_tokens(name: str, text: str) -> int:
    """How many tokens `text` is in the vocabulary `name`."""
    return len(vocabulary(name).encode_ordinary(text)) if text else 0
