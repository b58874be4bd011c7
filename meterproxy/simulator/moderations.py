"""Moderations: what the provider says of texts and pictures, which it judges by a word in them and bills to nobody."""

from collections.abc import Mapping
from typing import Any, Final

from meterproxy.simulator.models import Model
from meterproxy.simulator.refusal import Refusal

FLAGGED_WORD: Final = "violence"

_CATEGORIES: Final = (
    "harassment harassment/threatening hate hate/threatening illicit illicit/violent self-harm self-harm/intent"
    " self-harm/instructions sexual sexual/minors violence violence/graphic"
).split()
_PICTURED: Final = frozenset({"self-harm", "self-harm/intent", "self-harm/instructions", "sexual", "violence"})


def moderation_answer(document: Mapping[str, Any], model: Model, identifier: str) -> dict[str, Any]:
    """Judge each input; parts that are given together are judged together.

    Raises:
        Refusal: the input is empty or no text.
    """
    inputs = document["input"]
    if isinstance(inputs, list) and inputs and isinstance(inputs[0], dict):
        inputs = [" ".join(str(part.get("text", "")) for part in inputs)]
    texts = [inputs] if isinstance(inputs, str) else inputs
    if not texts or not all(isinstance(text, str) for text in texts):
        raise Refusal(400, "'$.input' is invalid. Please check the API reference.", param="input")
    return {"id": f"modr-{identifier}", "model": model.served_name, "results": [_result(text) for text in texts]}


def _result(text: str) -> dict[str, Any]:
    flagged = FLAGGED_WORD in text.lower()
    return {
        "flagged": flagged,
        "categories": {name: flagged and name == "violence" for name in _CATEGORIES},
        "category_scores": {name: 0.9 if flagged and name == "violence" else 0.001 for name in _CATEGORIES},
        "category_applied_input_types": {
            name: ["text", "image"] if name in _PICTURED else ["text"] for name in _CATEGORIES
        },
    }
