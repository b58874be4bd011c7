"""Vocabularies: from the bytes of a `.tiktoken` file to an encoding, and from a model's name to its vocabulary.

Rules
-----
- Bytes come in as an argument and are checked against the SHA-256 that tiktoken itself pins; nothing is read or
  downloaded here.
- Only `encode_ordinary` is meant for texts of clients: no special words are registered, so none can be smuggled in.

Facts (patterns, digests, model names) are those of `tiktoken_ext/openai_public.py` and `tiktoken/model.py`.
"""

import hashlib
from binascii import a2b_base64
from collections.abc import Iterator
from typing import Final, NamedTuple

import tiktoken


class Vocabulary(NamedTuple):
    """What makes an encoding out of a file: the digest it must have and the pattern that splits text into words."""

    sha256: str
    pattern: str


VOCABULARIES: Final[dict[str, Vocabulary]] = {
    "o200k_base": Vocabulary(
        "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n/]*"
        r"|\s*[\r\n]+"
        r"|\s+(?!\S)"
        r"|\s+",
    ),
    "cl100k_base": Vocabulary(
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+"
        r"| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
    ),
}
"""By name; the file in `meterproxy/data/encodings` is `<name>.tiktoken`."""

FALLBACK: Final = "o200k_base"
"""Counts for a model whose vocabulary nobody published; such a count is an estimate."""

_EXACT: Final[dict[str, str]] = {
    **dict.fromkeys(("o1", "o3", "o4-mini", "gpt-5", "gpt-4.1", "gpt-4o"), "o200k_base"),
    **dict.fromkeys(("gpt-4", "gpt-3.5-turbo", "gpt-3.5", "gpt-35-turbo", "davinci-002", "babbage-002"), "cl100k_base"),
    **dict.fromkeys(("text-embedding-ada-002", "text-embedding-3-small", "text-embedding-3-large"), "cl100k_base"),
}
_PREFIXES: Final[tuple[tuple[str, str], ...]] = (
    ("o1-", "o200k_base"),
    ("o3-", "o200k_base"),
    ("o4-mini-", "o200k_base"),
    ("gpt-5", "o200k_base"),
    ("gpt-4.5-", "o200k_base"),
    ("gpt-4.1-", "o200k_base"),
    ("chatgpt-4o-", "o200k_base"),
    ("gpt-4o-", "o200k_base"),
    ("gpt-4-", "cl100k_base"),
    ("gpt-3.5-turbo-", "cl100k_base"),
    ("gpt-35-turbo-", "cl100k_base"),
    ("gpt-oss-", "o200k_base"),  # harmony: the same words, only other special ones, which are not used here
    ("ft:gpt-4.1", "o200k_base"),
    ("ft:gpt-4o", "o200k_base"),
    ("ft:gpt-4", "cl100k_base"),
    ("ft:gpt-3.5-turbo", "cl100k_base"),
    ("ft:davinci-002", "cl100k_base"),
    ("ft:babbage-002", "cl100k_base"),
)


def vocabulary_of(model: str) -> tuple[str, bool]:
    """The vocabulary that counts for a model, and whether it is the model's own (else it is an estimate)."""
    exact = _EXACT.get(model)
    if exact is not None:
        return exact, True
    for prefix, name in _PREFIXES:
        if model.startswith(prefix):
            return name, True
    return FALLBACK, False


def encoding_from(data: bytes, name: str) -> tiktoken.Encoding:
    """Build the encoding `name` from the bytes of its `.tiktoken` file; takes about 0.2 s and 50 MB.

    Raises:
        ValueError: the name is unknown, or the bytes are not those that tiktoken pins for it.
    """
    vocabulary = VOCABULARIES.get(name)
    if vocabulary is None:
        raise ValueError(f"no vocabulary is called {name!r}; known are {', '.join(VOCABULARIES)}")
    if hashlib.sha256(data).hexdigest() != vocabulary.sha256:
        raise ValueError(f"the vocabulary {name} is damaged: its SHA-256 is not the expected one")
    ranks = {a2b_base64(word): int(rank) for word, rank in (line.split() for line in data.splitlines() if line)}
    return tiktoken.Encoding(name, pat_str=vocabulary.pattern, mergeable_ranks=ranks, special_tokens={})


PIECE_CHARACTERS: Final = 65_536
"""The most characters encoded in one go (some 15 ms at worst, whatever they are)."""
_SEARCHED: Final = 4_096


def pieces(text: str, limit: int = PIECE_CHARACTERS) -> Iterator[str]:
    """Cut a long text where both patterns end a word anyway: before a space that follows something else.

    The sum over the pieces is then the count of the whole. A run of more than 4 Ki characters without such a place is
    cut hard, which may add a token or two a piece.
    """
    start = 0
    while len(text) - start > limit:
        cut = _boundary(text, start, start + limit)
        yield text[start:cut]
        start = cut
    yield text[start:]


def _boundary(text: str, start: int, end: int) -> int:
    """Where the piece that begins at `start` ends: at a space near `end`, always behind `start`."""
    space = end + 1
    while (space := text.rfind(" ", max(start + 1, end - _SEARCHED), space)) > 0:
        if not text[space - 1].isspace():
            return space
    return end


def valid_text(text: str) -> str:
    """The text with every lone surrogate replaced, as tiktoken itself does before it encodes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
