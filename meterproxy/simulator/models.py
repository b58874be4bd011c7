"""Models: what the simulated provider offers.

Ids, snapshots, context and maximum output are OpenAI's own (platform.openai.com/docs/models); `sim-unpriced-1` exists
nowhere else, so nobody has a price for it.
"""

from dataclasses import dataclass, replace
from typing import Final, Literal

Operation = Literal["chat", "completion", "embedding", "response", "compaction", "moderation"]


@dataclass(frozen=True, slots=True)
class Model:
    """One model: `snapshot` is the name that answers carry, `dimensions` the size of its embeddings."""

    id: str
    operation: Operation = "chat"
    snapshot: str = ""
    created: int = 1_715_367_049
    encoding: str = "o200k_base"
    context_tokens: int = 128_000
    max_output_tokens: int = 16_384
    reasoning: bool = False
    audio: bool = False
    cache_write: bool = False
    fingerprint: bool = True
    dimensions: int = 0

    @property
    def served_name(self) -> str:
        return self.snapshot or self.id


def _chat(id_: str, snapshot: str, created: int, context_tokens: int, max_output_tokens: int) -> Model:
    return Model(id_, "chat", snapshot, created, "o200k_base", context_tokens, max_output_tokens)


def _reasoning(id_: str, snapshot: str, created: int, context_tokens: int, max_output_tokens: int) -> Model:
    chat = _chat(id_, snapshot, created, context_tokens, max_output_tokens)
    return replace(chat, reasoning=True, fingerprint=False)


def _embedding(id_: str, created: int, dimensions: int) -> Model:
    return Model(id_, "embedding", "", created, "cl100k_base", 8_192, 0, fingerprint=False, dimensions=dimensions)


_OFFERED: Final = (
    _chat("gpt-4o", "gpt-4o-2024-08-06", 1_715_367_049, 128_000, 16_384),
    _chat("gpt-4o-mini", "gpt-4o-mini-2024-07-18", 1_721_172_741, 128_000, 16_384),
    _chat("gpt-4.1", "gpt-4.1-2025-04-14", 1_744_316_542, 1_047_576, 32_768),
    _chat("gpt-4.1-mini", "gpt-4.1-mini-2025-04-14", 1_744_318_173, 1_047_576, 32_768),
    _chat("gpt-4.1-nano", "gpt-4.1-nano-2025-04-14", 1_744_321_707, 1_047_576, 32_768),
    replace(
        _chat("gpt-3.5-turbo", "gpt-3.5-turbo-0125", 1_677_610_602, 16_385, 4_096),
        encoding="cl100k_base",
        fingerprint=False,
    ),
    replace(_chat("gpt-4-turbo", "gpt-4-turbo-2024-04-09", 1_712_361_441, 128_000, 4_096), encoding="cl100k_base"),
    _reasoning("gpt-5", "gpt-5-2025-08-07", 1_754_425_777, 400_000, 128_000),
    _reasoning("gpt-5-mini", "gpt-5-mini-2025-08-07", 1_754_425_928, 400_000, 128_000),
    _reasoning("gpt-5-nano", "gpt-5-nano-2025-08-07", 1_754_426_384, 400_000, 128_000),
    _reasoning("gpt-5.4", "gpt-5.4-2026-03-05", 1_772_668_800, 1_050_000, 128_000),
    replace(_reasoning("gpt-5.6-sol", "", 1_780_272_000, 922_000, 128_000), cache_write=True),
    _reasoning("o3", "o3-2025-04-16", 1_744_225_308, 200_000, 100_000),
    _reasoning("o3-mini", "o3-mini-2025-01-31", 1_737_146_383, 200_000, 100_000),
    _reasoning("o4-mini", "o4-mini-2025-04-16", 1_744_225_351, 200_000, 100_000),
    replace(
        _chat("gpt-4o-audio-preview", "gpt-4o-audio-preview-2025-06-03", 1_727_460_443, 128_000, 16_384), audio=True
    ),
    replace(_chat("gpt-audio", "gpt-audio-2025-08-28", 1_756_339_249, 128_000, 16_384), audio=True),
    Model(
        "gpt-3.5-turbo-instruct",
        "completion",
        "gpt-3.5-turbo-instruct:20230824-v2",
        1_692_901_427,
        "cl100k_base",
        4_096,
        4_096,
        fingerprint=False,
    ),
    Model("davinci-002", "completion", "", 1_692_634_301, "cl100k_base", 16_384, 16_384, fingerprint=False),
    Model("omni-moderation-latest", "moderation", "omni-moderation-2024-09-26", 1_731_689_265, context_tokens=32_768),
    Model("text-moderation-latest", "moderation", "text-moderation-007", 1_707_926_400, context_tokens=32_768),
    _embedding("text-embedding-3-small", 1_705_948_997, 1_536),
    _embedding("text-embedding-3-large", 1_705_953_180, 3_072),
    _embedding("text-embedding-ada-002", 1_671_217_299, 1_536),
    _chat("sim-unpriced-1", "", 1_700_000_000, 128_000, 16_384),
)

MODELS: Final = {model.id: model for model in _OFFERED}
_BY_SNAPSHOT: Final = {model.snapshot: model for model in _OFFERED if model.snapshot}


def find_model(name: str) -> Model | None:
    """The model of that id, or of that snapshot's name."""
    return MODELS.get(name) or _BY_SNAPSHOT.get(name)


def model_document(model: Model, name: str) -> dict[str, object]:
    """The object that `GET /v1/models/{id}` answers with."""
    return {"id": name, "object": "model", "created": model.created, "owned_by": "system"}
