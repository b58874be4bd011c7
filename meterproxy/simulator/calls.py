"""Calls: what the simulated provider really received, for tests to ask."""

from collections import Counter, deque
from dataclasses import dataclass
from typing import Any, Final

_BODY_BYTES_KEPT: Final = 1_048_576


@dataclass(slots=True)
class Call:
    """One request as it arrived; `ended` is how its answer did: `open`, `complete`, `cut`, or `left` by the client."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes = b""
    status: int = 0
    sent_bytes: int = 0
    ended: str = "open"

    def document(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "path": self.path,
            "headers": self.headers,
            "body": self.body[:_BODY_BYTES_KEPT].decode("utf-8", "replace"),
            "body_bytes": len(self.body),
            "status": self.status,
            "sent_bytes": self.sent_bytes,
            "ended": self.ended,
        }


class Calls:
    """The number of requests by path, and the last of them."""

    def __init__(self, kept: int) -> None:
        self._count: Counter[str] = Counter()
        self._last: deque[Call] = deque(maxlen=kept)

    def add(self, call: Call) -> None:
        self._count[call.path] += 1
        self._last.append(call)

    def clear(self) -> None:
        self._count.clear()
        self._last.clear()

    def document(self) -> dict[str, Any]:
        """What `GET /_simulator/calls` answers: `{count, total, calls}`, oldest first."""
        return {
            "count": dict(self._count),
            "total": self._count.total(),
            "calls": [call.document() for call in self._last],
        }
