"""Text: deterministic words whose number of tokens is known, and any text cut into its tokens.

Rules
-----
- The same seed gives the same words, whatever maximum a request names: a lower one cuts, it does not change the text.
- Every word below is one token in each vocabulary, with the space before it; so are the openings without one. A text
  of N tokens therefore counts N again when somebody else counts it.
"""

import codecs
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any, Final, Literal

from meterproxy.simulator.vocabulary import vocabulary

_OPENINGS: Final = "The A One This That Every Some Each Our Their When Where Perhaps Today Nobody However Meanwhile"
_WORDS: Final = (
    "river garden window letter morning evening market bridge mountain forest island harbor village street kitchen "
    "table paper pencil music silver golden quiet gentle simple careful curious ancient modern distant narrow broad "
    "bright dark warm cold early late small large open closed first second third little great young old north south "
    "east west walks runs turns opens closes carries brings finds keeps shows holds moves stands waits grows falls "
    "rises reads writes counts measures answers asks follows leads begins ends under over near behind beside between "
    "across along through around with without after before until while because although and or but then now here "
    "there never always often sometimes again away water stone wood glass iron cloud rain snow wind light shadow "
    "road field hill valley lake ocean ship boat train house door room wall floor roof tower clock bell book page "
    "line word number sum balance ledger price account café über"
)
OPENINGS: Final = tuple(_OPENINGS.split())
WORDS: Final = tuple(_WORDS.split())
_SENTENCE_TOKENS: Final = range(6, 15)

Finish = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, slots=True)
class Generated:
    """A text as a model made it: its pieces as a stream shows them, its tokens, and why it ended."""

    pieces: tuple[str, ...]
    tokens: int
    finish: Finish

    @property
    def text(self) -> str:
        return "".join(self.pieces)


def seed_of(*parts: Any) -> int:
    """A number that follows from any JSON values."""
    canonical = json.dumps(parts, sort_keys=True, default=str).encode("ascii")
    return int.from_bytes(hashlib.sha256(canonical).digest()[:8], "big")


def words(seed: int) -> Iterator[str]:
    """Endless prose, one token at a time."""
    random = Random(seed)  # noqa: S311 - reproducible prose, not secrets
    space = ""
    while True:
        yield space + random.choice(OPENINGS)
        for _ in range(random.choice(_SENTENCE_TOKENS)):
            yield " " + random.choice(WORDS)
        yield "."
        space = " "


def prose(seed: int, wanted: int, maximum: int, stop: tuple[str, ...], encoding: str) -> Generated:
    """Write `wanted` tokens of prose, ended early by `maximum` ("length") or a stop sequence ("stop")."""
    source = words(seed)
    pieces = tuple(next(source) for _ in range(min(wanted, maximum)))
    whole = "".join(pieces)
    cut = min((at for at in map(whole.find, stop) if at >= 0), default=None)
    if cut is not None:
        return tokenized(whole[:cut], len(pieces), encoding)
    return Generated(pieces, len(pieces), "length" if wanted > maximum else "stop")


def tokenized(text: str, maximum: int, encoding: str) -> Generated:
    """Cut a given text into the tokens a model would have made, at most `maximum`."""
    chosen = vocabulary(encoding)
    tokens = chosen.encode_ordinary(text)
    kept = tokens[:maximum]
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    pieces = (decoder.decode(chosen.decode_single_token_bytes(token)) for token in kept)
    return Generated(tuple(filter(None, pieces)), len(kept), "length" if len(tokens) > maximum else "stop")
