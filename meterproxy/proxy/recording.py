"""Recording: a copy of an answer as it goes to its client, for those who will ask for it again.

Rules
-----
- What is recorded is what would have been sent, whether or not the client was still there to take it.
- It is whole only if whoever sent it says so, and nothing was left out: an answer that is too large, or that found no
  room, is dropped at once.
"""

from meterproxy.core.idempotency import KeptAnswer
from meterproxy.errors import ApiError
from meterproxy.proxy.client import HeaderLines, Room


class Recording:
    """The copy of one answer.

    Attributes:
        whole: whether all of the answer went through here; set by whoever knows the answer's end.
        spoiled: whether it must not be kept.
    """

    __slots__ = ("_headers", "_limit_bytes", "_pieces", "_room", "_status", "_streamed", "size", "spoiled", "whole")

    def __init__(self, limit_bytes: int, room: Room) -> None:
        self._limit_bytes = limit_bytes
        self._room = room
        self._status = 0
        self._headers: list[tuple[bytes, bytes]] = []
        self._streamed = False
        self._pieces: list[bytes] = []
        self.size = 0
        self.whole = False
        self.spoiled = False

    def begin(self, status: int, headers: HeaderLines, *, streamed: bool) -> None:
        """The head of the answer is written."""
        self._status = status
        self._headers = list(headers)
        self._streamed = streamed

    def add(self, piece: bytes) -> None:
        """A piece of the answer is written."""
        if self.spoiled or not piece:
            return
        if self.size + len(piece) > self._limit_bytes:
            self.spoil()
            return
        try:
            self._room.take(len(piece))
        except ApiError:
            self.spoil()
            return
        self.size += len(piece)
        self._pieces.append(piece)

    def spoil(self) -> None:
        """Keep nothing of this answer."""
        self.spoiled = True
        self._pieces.clear()
        self._room.give_back(self.size)
        self.size = 0

    def taken(self) -> KeptAnswer:
        """The answer; its room stays taken until `spoil`."""
        return KeptAnswer(self._status, self._headers, self._streamed, b"".join(self._pieces))
