"""Bound: the most that the answer to a request may turn out to consume.

Rules
-----
- A bound is never below what the provider can report: where a fact is missing, the highest possible value stands in.
- What cannot be bounded is refused by the caller, never guessed.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """The highest counts an exchange can come to.

    `input_tokens` and `output_tokens` are totals over all kinds of their direction; `input_audio_tokens` and
    `input_image_tokens` say how many of the input may be audio or pictures, `output_audio` and `output_image` whether
    output may be. `variants` are the service tiers that the answer may come from; None: all but batch.
    """

    input_tokens: int
    output_tokens: int
    input_audio_tokens: int = 0
    input_image_tokens: int = 0
    output_audio: bool = False
    output_image: bool = False
    cache_write_1h: bool = False
    requests: int = 1
    images: int = 0
    audio_ms: int = 0
    characters: int = 0
    web_searches: int = 0
    file_searches: int = 0
    variants: tuple[str, ...] | None = None

    @property
    def others(self) -> tuple[int, ...]:
        """The counts of all kinds but tokens, in the order of `core.usage.OTHER_KINDS`."""
        return (self.requests, self.images, self.audio_ms, self.characters, self.web_searches, self.file_searches)
