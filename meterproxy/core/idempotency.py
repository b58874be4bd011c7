"""Idempotency: which requests are one and the same, who may answer, and what is kept of the answer.

Rules
-----
- A request is known by its account and the digest of its `Idempotency-Key`; whether it is the same one, by the digest
  of its path and body.
- Of all requests under one key one answers. It has claimed the key, and its claim ends once: `ClaimEnd`.
"""

import hashlib
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

import msgspec

KEY_BYTES = 255
"""The longest key."""
KEPT_SECONDS = 86_400.0
"""How long a key is remembered."""


class ClaimRequest(NamedTuple):
    """A request that asks for its key; `occurred_us` is its accept time."""

    account_id: UUID
    key_digest: bytes
    request_digest: bytes
    request_id: UUID
    occurred_us: int


class KeptAnswer(msgspec.Struct, array_like=True, frozen=True):
    """An answer as its client got it; `streamed` says whether it came in pieces."""

    status: int
    headers: list[tuple[bytes, bytes]]
    streamed: bool
    body: bytes


class Verdict(StrEnum):
    """What a request hears that asks for its key."""

    CLAIMED = "claimed"
    """Nobody else answers: this request does."""
    RUNNING = "running"
    """Another one is being answered right now."""
    ANSWERED = "answered"
    """Another one was answered, and its answer is here."""
    UNKEPT = "unkept"
    """Another one was answered and charged, but its answer was not kept."""
    DIFFERS = "differs"
    """Another one had the same key and asked for something else."""


class Found(NamedTuple):
    """What a key was found to be; `answer` is there where it was answered."""

    verdict: Verdict
    answer: KeptAnswer | None = None


class ClaimEnd(StrEnum):
    """How the claim of a request ends."""

    ANSWERED = "answered"
    """Its answer is kept: whoever asks again gets it."""
    UNKEPT = "unkept"
    """It was charged, and its answer is not kept: nobody is answered under this key any more."""
    RELEASED = "released"
    """It was charged nothing: whoever asks again may try."""
    FORFEITED = "forfeited"
    """It failed for our own fault and may be charged: whoever asks again takes its place."""


class EndedClaim(NamedTuple):
    """A claim that has ended, as it is told to PostgreSQL; `answer` is there where it was answered."""

    request: ClaimRequest
    end: ClaimEnd
    answer: KeptAnswer | None = None


def is_key(value: bytes) -> bool:
    """Whether this can be a key: 1 to 255 bytes of printable ASCII."""
    return 0 < len(value) <= KEY_BYTES and all(0x20 <= byte <= 0x7E for byte in value)


def digest_of_key(value: bytes) -> bytes:
    """What a key is known by."""
    return hashlib.sha256(value).digest()


def digest_of_request(target: str, body: bytes) -> bytes:
    """What decides whether two requests ask for the same: where they were sent, and every byte of their bodies."""
    digest = hashlib.sha256(target.encode("utf-8", "surrogateescape"))
    digest.update(b"\0")
    digest.update(body)
    return digest.digest()


class Replaced(NamedTuple):
    """A request that lost its key without an answer, and one that came in its place."""

    account_id: UUID
    request_id: UUID
    replaced_by: UUID
