"""Embeddings: unit vectors that follow from their input alone."""

from array import array
from base64 import b64encode
from math import sqrt
from random import Random
from sys import byteorder
from typing import Any, Final

from meterproxy.simulator.models import Model
from meterproxy.simulator.refusal import Refusal
from meterproxy.simulator.request import Document
from meterproxy.simulator.text import seed_of

_MOST_INPUTS: Final = 2_048
_MOST_TOKENS: Final = 300_000
_FIXED_DIMENSIONS: Final = frozenset({"text-embedding-ada-002"})


def embedding_answer(document: Document, model: Model, inputs: list[list[int]], seed: int, name: str) -> dict[str, Any]:
    """The `CreateEmbeddingResponse`, usage apart.

    Raises:
        Refusal: too many inputs, an input longer than the model's context, or dimensions it cannot make.
    """
    _check(document, model, inputs)
    dimensions = document.get("dimensions") or model.dimensions
    packed = document.get("encoding_format") == "base64"
    data = [_embedding(seed_of(seed, tokens), dimensions, packed) for tokens in inputs]
    rows = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(data)]
    return {"object": "list", "data": rows, "model": name}


def embedding_usage(inputs: list[list[int]]) -> dict[str, int]:
    """What the inputs cost."""
    total = sum(map(len, inputs))
    return {"prompt_tokens": total, "total_tokens": total}


def _check(document: Document, model: Model, inputs: list[list[int]]) -> None:
    longest, total = max(map(len, inputs)), sum(map(len, inputs))
    dimensions = document.get("dimensions")
    if len(inputs) > _MOST_INPUTS:
        raise Refusal(
            400, f"'input' array too long. Expected at most {_MOST_INPUTS}, got {len(inputs)}.", param="input"
        )
    if not all(inputs):
        raise Refusal(400, "'input' cannot be an empty string.", param="input")
    if longest > model.context_tokens:
        raise Refusal(
            400,
            f"This model's maximum context length is {model.context_tokens} tokens, however you requested {longest} "
            "tokens. Please reduce your prompt.",
            param="input",
            code="context_length_exceeded",
        )
    if total > _MOST_TOKENS:
        raise Refusal(
            400, f"Requested {total} tokens, max {_MOST_TOKENS} tokens per request", code="max_tokens_per_request"
        )
    if dimensions and (model.id in _FIXED_DIMENSIONS or dimensions > model.dimensions):
        raise Refusal(400, f"Invalid value for 'dimensions': at most {model.dimensions}.", param="dimensions")


def _embedding(seed: int, dimensions: int, packed: bool) -> list[float] | str:
    random = Random(seed)  # noqa: S311 - reproducible vectors, not secrets
    raw = [random.uniform(-1, 1) for _ in range(dimensions)]
    length = sqrt(sum(value * value for value in raw))
    vector = array("f", (value / length for value in raw))
    if not packed:
        return vector.tolist()
    if byteorder == "big":
        vector.byteswap()
    return b64encode(vector.tobytes()).decode()
