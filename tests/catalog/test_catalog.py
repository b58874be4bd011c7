"""The catalog as requests use it."""

import subprocess
import sys

import pytest

from meterproxy.catalog.catalog import UNKNOWN_CONTEXT_TOKENS, Catalog, FactsOverride
from meterproxy.catalog.maxima import Maxima, Maximum
from meterproxy.core.usage import Usage

AT_US = 1_795_262_400_000_000  # 2026-11-21 12:00 UTC
NO_MAXIMA = Maxima({})


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog()


def test_known_model_has_its_price(catalog: Catalog) -> None:
    """A model of the data is priced under the names it is called by."""
    price = catalog.price("openai", "gpt-4o-mini", AT_US)
    assert price is not None
    assert price.card_for(None).rates_for(0).input == 150_000_000
    assert catalog.price("openai", "gpt-4o-mini-2024-07-18", AT_US) == price


def test_warm_lookup_answers_with_the_same_price(catalog: Catalog) -> None:
    """A price is compiled once for as long as it holds."""
    assert catalog.price("openai", "gpt-4.1", AT_US) is catalog.price("openai", "gpt-4.1", AT_US + 1)


def test_price_changes_with_the_hour(catalog: Catalog) -> None:
    """A model with peak hours has another price in them, also when asked for in any order."""
    peak_us = AT_US - 10 * 3600 * 1_000_000
    calm = catalog.price("deepseek", "deepseek-flash", AT_US)
    peak = catalog.price("deepseek", "deepseek-flash", peak_us)
    assert calm is not None
    assert peak is not None
    assert peak.card_for(None).rates_for(0).input == 2 * calm.card_for(None).rates_for(0).input
    assert catalog.price("deepseek", "deepseek-flash", AT_US) == calm


def test_provider_that_sells_anothers_models_has_their_price(catalog: Catalog) -> None:
    """Azure has no entry of its own for some of OpenAI's models."""
    assert catalog.price("azure", "gpt-4.1", AT_US) is not None


@pytest.mark.parametrize(
    ("prices_id", "model"),
    [
        ("openai", "no-such-model"),
        ("no-such-provider", "gpt-4o"),
        ("openai", ""),
        ("openai", "moderation"),
        ("openrouter", "deepseek/deepseek-r1:free"),
        ("github-copilot", "gpt-4o"),
        ("azure", "davinci"),
    ],
)
def test_what_nobody_priced_is_unpriced(catalog: Catalog, prices_id: str, model: str) -> None:
    """An unknown name, an empty price list or a missing direction is refused, never free."""
    assert catalog.price(prices_id, model, AT_US) is None


def test_moderations_are_free(catalog: Catalog) -> None:
    """What is billed to nobody has a price of zeros, also where no list names the model; for anything else it has none.

    What the operator has set for a model holds for moderations too.
    """
    price = catalog.price("openai", "omni-moderation-latest", AT_US, "moderation")
    assert price is not None
    assert price.free
    assert price.flags(Usage(input=5, requests=1), None) == ()
    assert catalog.price("openai", "omni-moderation-latest", AT_US) == price
    assert catalog.price("openai", "omni-moderation-latest", AT_US, "chat") is None
    own = Catalog({"omni-moderation-latest": {"input": 10}}).price(
        "openai", "omni-moderation-latest", AT_US, "moderation"
    )
    assert own is not None
    assert not own.free


def test_responses_need_both_directions(catalog: Catalog) -> None:
    """A model that cannot write is unpriced for responses."""
    assert catalog.price("openai", "gpt-4o", AT_US, "response") is not None
    assert catalog.price("openai", "text-embedding-3-small", AT_US, "response") is None


def test_embeddings_need_a_price_of_input_only(catalog: Catalog) -> None:
    """An embedding model is priced without a rate of output, but not for a chat."""
    assert catalog.price("openai", "text-embedding-3-small", AT_US) is not None
    assert catalog.price("openai", "text-embedding-3-small", AT_US, "embedding") is not None
    assert catalog.price("openai", "text-embedding-3-small", AT_US, "chat") is None
    assert catalog.price("voyageai", "voyage-3", AT_US) is not None


def test_operators_price_replaces_the_datas_whole() -> None:
    """Nothing of the data shines through a price that the operator set, and it holds with every provider."""
    catalog = Catalog({"gpt-4o": {"input": 1_000_000_000, "output": 2_000_000_000}, "own": {"input": 0, "output": 0}})
    price = catalog.price("openai", "gpt-4o", AT_US)
    assert price is not None
    assert set(price.cards) == {"default"}
    assert price.card_for(None).rates_for(0).cache_read == 1_000_000_000
    own = catalog.price("nobody", "own", AT_US)
    assert own is not None
    assert own.free
    assert (own.provider, own.model) == ("nobody", "own")
    assert "own" in catalog.models("openai")


def test_operators_price_without_output_does_not_price_a_chat() -> None:
    """A forgotten rate of output makes the model unpriced, not its answers free."""
    catalog = Catalog({"own": {"input": 1}})
    assert catalog.price("openai", "own", AT_US) is None
    assert catalog.price("openai", "own", AT_US, "embedding") is not None


def test_facts_come_from_the_table(catalog: Catalog) -> None:
    """The table's maximum output, and the higher of two known contexts."""
    facts = catalog.facts("gpt-5", "openai")
    assert facts.max_output_tokens == 128_000
    assert facts.context_tokens >= 272_000
    assert facts.reasoning
    assert facts.certain_output
    assert facts.mode == "chat"
    assert catalog.facts("gpt-5").max_output_tokens == 128_000


def test_higher_of_two_contexts_holds() -> None:
    """A context that is too low would let a hold be too small, so the highest number of all sources counts."""
    row = Maximum("chat", 5, 7, reasoning=False)
    catalog = Catalog(maxima=Maxima({"openai": {"gpt-4o": row}}))
    assert catalog.facts("gpt-4o", "openai").context_tokens == 128_000
    assert catalog.facts("gpt-4o").context_tokens == 5


def test_unknown_model_has_the_defaults() -> None:
    """Nothing known: the configured maximum output, and a context that no model exceeds."""
    facts = Catalog(default_max_output_tokens=999, maxima=NO_MAXIMA).facts("own", "openai")
    assert facts.max_output_tokens == 999
    assert not facts.certain_output
    assert facts.context_tokens == UNKNOWN_CONTEXT_TOKENS
    assert not facts.reasoning


def test_operators_facts_win() -> None:
    """What the operator knows of a model is believed."""
    overrides = {"gpt-5": FactsOverride(max_output_tokens=10, context_tokens=20), "own": FactsOverride(None, 30)}
    catalog = Catalog(facts_overrides=overrides)
    assert (catalog.facts("gpt-5").max_output_tokens, catalog.facts("gpt-5", "openai").context_tokens) == (10, 20)
    assert catalog.facts("gpt-5").reasoning
    assert (catalog.facts("own").context_tokens, catalog.facts("own").certain_output) == (30, False)


def test_no_known_context_is_above_the_default() -> None:
    """The stand-in for an unknown context is an upper bound of all known ones."""
    from genai_prices.data import providers

    known = [model.context_window or 0 for provider in providers for model in provider.models]
    known += [row.input_tokens or 0 for models in Maxima.shipped()._rows.values() for row in models.values()]
    assert max(known) <= UNKNOWN_CONTEXT_TOKENS


def test_names_from_clients_do_not_fill_the_memory() -> None:
    """Remembered answers are bounded, however many names are asked for."""
    catalog = Catalog(maxima=NO_MAXIMA)
    for number in range(5000):
        catalog.price("nobody", f"model-{number}", AT_US)
    assert len(catalog._compiled) <= 4096
    assert len(catalog._facts) <= 4096


def test_price_data_is_imported_only_when_asked_for() -> None:
    """The command line starts without the price data; a worker loads it before its first request."""
    program = (
        "import sys\n"
        "from meterproxy.catalog.catalog import Catalog\n"
        "catalog = Catalog()\n"
        "assert catalog.facts('gpt-4o').max_output_tokens == 16384\n"
        "assert 'genai_prices' not in sys.modules\n"
        "catalog.load()\n"
        "assert 'genai_prices.data' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
