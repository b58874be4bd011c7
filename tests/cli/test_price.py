"""`price list` and `price show`."""

from pathlib import Path

from tests.cli.conftest import Command


def test_show(command: Command) -> None:
    """A model's rates are shown in USD and in exact nanodollars, with its sizes."""
    shown = command("price", "show", "gpt-4o-mini", "--json").json
    rates = {rate["kind"]: rate for rate in shown["rates"] if rate["card"] == "default"}
    assert (rates["input"]["rate"], rates["input"]["rate_nanos"], rates["input"]["per"]) == (
        "0.15",
        150_000_000,
        "1,000,000",
    )
    assert (rates["reasoning"]["source"], rates["reasoning"]["rate"]) == ("as its parent", rates["output"]["rate"])
    assert shown["max_output_tokens"] == 16_384
    assert "default" in command("price", "show", "gpt-4o-mini").out


def test_configured_price(command: Command, tmp_path: Path) -> None:
    """What the operator sets for a model is what is shown."""
    path = tmp_path / "config.yaml"
    path.write_text("models: {mine: {price: {input: 1, output: 2.5}, max_output_tokens: 7, context_tokens: 9}}")
    shown = command("price", "show", "mine", "--config", path, "--json").json
    assert {rate["kind"]: rate["rate"] for rate in shown["rates"] if rate["source"] == "own"} == {
        "input": "1.00",
        "output": "2.50",
    }
    assert (shown["max_output_tokens"], shown["context_tokens"]) == (7, 9)


def test_no_price(command: Command) -> None:
    """A model without a price is told with the way out."""
    done = command("price", "show", "no-such-model")
    assert (done.status, done.out) == (1, "")
    assert (
        done.err
        == "meterproxy: no-such-model has no price under 'openai': set models.no-such-model.price, or try --prices\n"
    )


def test_list(command: Command) -> None:
    """The list names models with their main rates."""
    rows = {row["model"]: row for row in command("price", "list", "--json").json}
    assert rows["gpt-4o-mini"]["output"] == "0.60"
    assert command("price", "list", "--prices", "nobody").err.startswith(
        "meterproxy: no prices are known under 'nobody'"
    )
