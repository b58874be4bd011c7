"""Usage: what an exchange consumed, counted in disjoint kinds.

Rules
-----
- Kinds never overlap: cached tokens are not in `input`, reasoning tokens are not in `output`. A total is a plain sum.
- Counts are integers in 0…2^53; what a provider reports outside of that is impossible and is counted by ourselves.
- Missing usage is never zero usage: `None` stands for missing, `Usage()` for a reported zero.
"""

from enum import StrEnum
from typing import Final, NamedTuple

MAX_COUNT: Final = 2**53


class Usage(NamedTuple):
    """Counted units by disjoint kind; the field names are the kinds.

    Token kinds are in tokens, `audio_ms` in milliseconds, `characters` in characters, the rest in pieces.
    """

    input: int = 0
    cache_read: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    input_audio: int = 0
    cache_read_audio: int = 0
    input_image: int = 0
    cache_read_image: int = 0
    output: int = 0
    reasoning: int = 0
    output_audio: int = 0
    output_image: int = 0
    requests: int = 0
    images: int = 0
    audio_ms: int = 0
    characters: int = 0
    web_searches: int = 0
    file_searches: int = 0

    @property
    def input_tokens(self) -> int:
        """All tokens that went in, whatever their kind; tiers are chosen by this number."""
        return sum(self[:8])

    @property
    def output_tokens(self) -> int:
        """All tokens that came out, hidden reasoning included."""
        return sum(self[8:12])


KINDS: Final = Usage._fields
INPUT_KINDS: Final = KINDS[:8]
OUTPUT_KINDS: Final = KINDS[8:12]
OTHER_KINDS: Final = KINDS[12:]


class UsageSource(StrEnum):
    """Where a row's numbers came from."""

    PROVIDER = "provider"
    COUNTED = "counted"
    ESTIMATED = "estimated"
    RECOVERED = "recovered"
    REPORTED = "reported"
    """The word of whoever logged it; it did not pass here."""


class Outcome(StrEnum):
    """How an exchange that had placed a hold ended."""

    COMPLETED = "completed"
    PROVIDER_ERROR = "provider_error"
    UNREACHABLE = "unreachable"
    TIMED_OUT = "timed_out"
    STREAM_BROKEN = "stream_broken"
    CLIENT_LEFT = "client_left"
    STOPPED_BY_LIMIT = "stopped_by_limit"
    RECOVERED = "recovered"
