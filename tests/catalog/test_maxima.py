"""The shipped table of maxima and how it is looked up."""

import csv
from importlib.resources import files

import pytest

from meterproxy.catalog.maxima import Maxima, Maximum


@pytest.fixture(scope="module")
def maxima() -> Maxima:
    return Maxima.shipped()


def test_table_names_its_source() -> None:
    """Facts come with where they are from, and when."""
    head = files("meterproxy").joinpath("data/models.yaml").read_text("utf-8")[:400]
    assert "litellm 1.109" in head
    assert "MIT" in head
    assert "2026-11" in head


def test_table_is_whole(maxima: Maxima) -> None:
    """All rows are there and readable."""
    assert sum(map(len, maxima._rows.values())) > 1100
    assert all(isinstance(row, Maximum) for models in maxima._rows.values() for row in models.values())


ROWS = """
# prices_id, model, mode, input, output, reasoning
openai,gpt-5,chat,272000,128000,1
openai,gpt-4o,chat,128000,16384,
openai,ft:gpt-4o:my-org:name:id,chat,128000,16384,
openai,ft:gpt-4.1-mini-2025-04-14:org::x,chat,1047576,32768,
openai,text-embedding-3-large,embedding,8191,,
openai,babbage-002,completion,16384,4096,
google,gemini-exp-1206,chat,2097152,65535,1
azure,gpt-4o,chat,128000,16384,
nobody,gpt-5,chat,272000,128000,1
,gpt-5,chat,272000,128000,1
"""


@pytest.mark.parametrize("row", list(csv.reader(line for line in ROWS.strip().splitlines() if line[0] != "#")))
def test_models_are_found(row: list[str], maxima: Maxima) -> None:
    """By provider and name, a fine-tuned one by its base, else by name alone."""
    prices_id, model, mode, highest_input, highest_output, reasoning = row
    found = maxima.find(prices_id or None, model)
    assert found is not None
    assert found.mode == mode
    assert found.input_tokens is not None
    assert found.input_tokens >= int(highest_input)
    assert found.output_tokens == (int(highest_output) if highest_output else None)
    assert found.reasoning == bool(reasoning)


def test_model_that_nobody_knows_has_no_row(maxima: Maxima) -> None:
    """Unknown is unknown, not somebody else's number."""
    assert maxima.find("openai", "no-such-model") is None


def test_several_providers_count_as_the_highest() -> None:
    """Where the provider is unknown, the highest of all who serve the model holds."""
    maxima = Maxima(
        {"a": {"m": Maximum("chat", 10, None, reasoning=False)}, "b": {"x/m": Maximum("chat", 5, 7, reasoning=True)}}
    )
    assert maxima.find("a", "m") == Maximum("chat", 10, None, reasoning=False)
    assert maxima.find("c", "m") == Maximum("chat", 10, 7, reasoning=True)
