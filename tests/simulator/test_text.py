"""Texts have the number of tokens they say, and vocabularies are tiktoken's own."""

from itertools import islice

import pytest

from meterproxy.simulator.text import OPENINGS, WORDS, prose, tokenized, words
from meterproxy.simulator.vocabulary import count_tokens, vocabulary

ENCODINGS = ("o200k_base", "cl100k_base")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_word_is_one_token(encoding: str) -> None:
    """Each word counts one, with the space before it and, for openings, without."""
    pieces = [*OPENINGS, *(f" {word}" for word in (*OPENINGS, *WORDS)), "."]
    assert [piece for piece in pieces if count_tokens(encoding, piece) != 1] == []


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("wanted", [0, 1, 2, 17, 400])
def test_prose_counts_what_it_says(encoding: str, wanted: int) -> None:
    """Prose of N tokens is N tokens when counted again."""
    made = prose(7, wanted, 10_000, (), encoding)
    assert (made.tokens, made.finish, count_tokens(encoding, made.text)) == (wanted, "stop", wanted)


def test_a_maximum_cuts_the_same_text() -> None:
    """A lower maximum is a prefix of the longer text and ends for length."""
    whole, cut = (prose(7, 50, maximum, (), "o200k_base") for maximum in (50, 20))
    assert whole.pieces[:20] == cut.pieces
    assert (whole.finish, cut.finish) == ("stop", "length")


def test_a_stop_sequence_ends_before_itself() -> None:
    """Text ends before the first stop sequence, and counts only what is left."""
    whole = prose(7, 50, 50, (), "o200k_base")
    stop = whole.pieces[9]
    made = prose(7, 50, 50, ("never there!", stop), "o200k_base")
    assert made.text == whole.text[: whole.text.index(stop)]
    assert made.tokens == count_tokens("o200k_base", made.text)
    assert made.finish == "stop"


def test_pieces_of_text_beyond_ascii_are_whole_characters() -> None:
    """Tokens that split a character are shown together."""
    text = '{"名前":"𝔘𝔫𝔦𝔠𝔬𝔡𝔢 🜚"}'
    made = tokenized(text, 1_000, "o200k_base")
    assert made.text == text
    assert made.tokens == count_tokens("o200k_base", text) > len(made.pieces)


def test_words_follow_from_their_seed() -> None:
    """The same seed gives the same words, another one others."""
    first, again, other = (list(islice(words(seed), 30)) for seed in (3, 3, 4))
    assert first == again != other


def test_vocabularies_count_as_published() -> None:
    """Counts match OpenAI's cookbook for its sentence of many scripts."""
    sentence = "お誕生日おめでとう"
    assert [count_tokens(name, sentence) for name in ENCODINGS] == [8, 9]
    assert vocabulary("cl100k_base").encode_ordinary("antidisestablishmentarianism") == [
        519,
        85342,
        34500,
        479,
        8997,
        2191,
    ]
