"""Maxima: the shipped table of how much each model reads and writes (`meterproxy/data/models.yaml`)."""

from collections.abc import Mapping
from importlib.resources import files
from typing import NamedTuple

import yaml

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Maximum(NamedTuple):
    """One row of the table; None where nobody says."""

    mode: str
    input_tokens: int | None
    output_tokens: int | None
    reasoning: bool


class Maxima:
    """The table, looked up by provider and model, else by model alone.

    Providers that serve the same model may cut it down differently; where the provider is not in the table, the
    highest numbers of all who serve that model hold, because they are used as upper bounds.
    """

    def __init__(self, rows: Mapping[str, Mapping[str, Maximum]]) -> None:
        self._rows = rows
        self._highest: dict[str, Maximum] = {}
        for models in rows.values():
            for model, row in models.items():
                for name in {model, model.rpartition("/")[2]}:
                    known = self._highest.get(name)
                    self._highest[name] = row if known is None else _higher(known, row)

    @classmethod
    def shipped(cls) -> "Maxima":
        """Read the table of the package (about 10 ms)."""
        text = files("meterproxy").joinpath("data/models.yaml").read_bytes()
        tree = yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe loader, the one written in C where it exists
        return cls({provider: {model: _row(row) for model, row in models.items()} for provider, models in tree.items()})

    def find(self, prices_id: str | None, model: str) -> Maximum | None:
        """The row of a model; a fine-tuned one ("ft:gpt-4o:…") has its base model's."""
        base = model.split(":")[1] if model.startswith("ft:") and ":" in model[3:] else model.removeprefix("ft:")
        own = self._rows.get(prices_id, {}) if prices_id is not None else {}
        return own.get(model) or own.get(base) or self._highest.get(model) or self._highest.get(base)


def _row(text: str) -> Maximum:
    mode, highest_input, highest_output, *rest = text.split()
    return Maximum(mode, _count(highest_input), _count(highest_output), "reasoning" in rest)


def _count(text: str) -> int | None:
    return None if text == "-" else int(text)


def _higher(one: Maximum, other: Maximum) -> Maximum:
    return Maximum(
        one.mode,
        max(one.input_tokens or 0, other.input_tokens or 0) or None,
        max(one.output_tokens or 0, other.output_tokens or 0) or None,
        one.reasoning or other.reasoning,
    )
