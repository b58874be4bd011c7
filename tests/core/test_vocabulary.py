"""Vocabularies: their files, their facts, and the cutting of long texts."""

from importlib.resources import files
from inspect import getsource

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st
from tiktoken_ext import openai_public

from meterproxy.core.vocabulary import VOCABULARIES, encoding_from, pieces, valid_text, vocabulary_of


def read(name: str) -> bytes:
    return files("meterproxy").joinpath("data", "encodings", f"{name}.tiktoken").read_bytes()


@pytest.fixture(scope="module")
def encodings() -> dict[str, tiktoken.Encoding]:
    return {name: encoding_from(read(name), name) for name in VOCABULARIES}


@pytest.mark.parametrize("name", VOCABULARIES)
def test_facts_are_those_of_tiktoken(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Digest and pattern are the ones that the library itself pins."""
    monkeypatch.setattr(openai_public, "load_tiktoken_bpe", lambda *_, **__: {})
    assert getattr(openai_public, name)()["pat_str"] == VOCABULARIES[name].pattern
    assert VOCABULARIES[name].sha256 in getsource(openai_public)


def test_damaged_file_is_refused() -> None:
    """A vocabulary with a single changed byte is not used."""
    with pytest.raises(ValueError, match="damaged"):
        encoding_from(read("cl100k_base")[:-1], "cl100k_base")


def test_unknown_name_is_refused() -> None:
    """A name that we ship no file for is an error that lists the known ones."""
    with pytest.raises(ValueError, match="known are o200k_base, cl100k_base"):
        encoding_from(b"", "gpt2")


@pytest.mark.parametrize(
    ("model", "name", "exact"),
    [
        ("gpt-4o", "o200k_base", True),
        ("gpt-4o-2024-08-06", "o200k_base", True),
        ("gpt-4.1-mini", "o200k_base", True),
        ("gpt-5.2-pro", "o200k_base", True),
        ("o3", "o200k_base", True),
        ("o3-mini", "o200k_base", True),
        ("gpt-4", "cl100k_base", True),
        ("gpt-4-32k", "cl100k_base", True),
        ("gpt-3.5-turbo-0125", "cl100k_base", True),
        ("text-embedding-3-large", "cl100k_base", True),
        ("ft:gpt-4o-mini:acme::id", "o200k_base", True),
        ("ft:gpt-4.1-mini:acme::id", "o200k_base", True),
        ("ft:gpt-4-0613:acme::id", "cl100k_base", True),
        ("claude-opus", "o200k_base", False),
        ("", "o200k_base", False),
    ],
)
def test_vocabulary_of_a_model(model: str, name: str, exact: bool) -> None:
    """A model's name leads to its vocabulary; a stranger's count is an estimate."""
    assert vocabulary_of(model) == (name, exact)


@given(st.text(alphabet=" a\nB.'1é\t,", max_size=300), st.integers(1, 40))
def test_pieces_are_the_text(text: str, limit: int) -> None:
    """Cutting loses nothing, and no piece is longer than allowed."""
    cut = list(pieces(text, limit))
    assert "".join(cut) == text
    assert max(map(len, cut)) <= limit


@pytest.mark.parametrize("name", VOCABULARIES)
@pytest.mark.parametrize(
    "text",
    [
        "The quick brown fox, it's 1234567 years  old;\n\n  isn't\tit? (yes)\r\n" * 40,
        'def main(argument: int) -> None:\n    print(f"{argument:>10}")  # 12345\n' * 40,
        '{"name": "Zoë", "values": [1, 22, 333, 4444], "text": "naïve  café"} ' * 40,
    ],
)
def test_cutting_at_words_counts_the_same(name: str, text: str, encodings: dict[str, tiktoken.Encoding]) -> None:
    """Where there are spaces, the sum over the pieces is the count of the whole."""
    encoding = encodings[name]
    for limit in (100, 101, 157, 500):
        cut = sum(len(encoding.encode_ordinary(piece)) for piece in pieces(text, limit))
        assert cut == len(encoding.encode_ordinary(text))


def test_lone_surrogates_are_replaced() -> None:
    """Halves of a pair become one replacement character each, a split pair becomes whole."""
    assert valid_text("a\ud800b") == "a\ufffdb"
    assert valid_text("\ud83d\ude00") == "\U0001f600"
    assert valid_text("plain") == "plain"
