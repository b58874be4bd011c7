"""The backlog: all records that PostgreSQL does not have, in order, of which only so many are in memory.

The journal is the queue. While PostgreSQL is away or slow, what waits in the middle of the line is known by its place
in the journal alone, 16 bytes each, and read back when its turn comes.

Rules
-----
- What memory lets go of, an fsync has made durable: until then it may have to be written again, elsewhere.
- What the journal has not (an ending that could not be written) stays in memory, in its place in the line.
- What comes back is what left: the same record, where its hold was placed, and whether the book knows of it.
- A record that cannot be read back (a damaged disk) is reported and left out, as at a start.
"""

import logging
from array import array
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from itertools import islice
from typing import Final

from meterproxy.core.lending import Noted, Settling
from meterproxy.core.record import DeferRecord, EndRecord, ForgetRecord, OwnerRecord, Record, identity
from meterproxy.ledger.journal import Journal

IN_MEMORY: Final = 20_000
"""Records at each end of the line that stay in memory: some seconds of a worker under full load."""
READ_AT_ONCE: Final = 512

_MIDDLE_CUT: Final = 1 << 16

_KEPT: Final = -1
"""Stands in the middle of the line for a record that only memory has."""

_log: Final = logging.getLogger(__name__)

Item = Settling | Noted


class Backlog:
    """A line of records; the oldest are taken from the front, new ones are put behind the last.

    Args:
        in_memory: at each end of the line about so many records are in memory, if the journal can be synced.
    """

    __slots__ = ("_behind", "_front", "_in_memory", "_journal", "_kept", "_middle", "_taken")

    def __init__(self, journal: Journal, in_memory: int | None = None) -> None:
        self._journal = journal
        self._in_memory = IN_MEMORY if in_memory is None else in_memory
        self._front: deque[Item] = deque()
        self._middle = array("q")
        """Pairs: where a record ends in the journal, and what `_code` says of it."""
        self._taken = 0
        """Numbers of the middle that are in front already."""
        self._kept: deque[Item] = deque()
        """Records of the middle that are in memory all the same."""
        self._behind: deque[Item] = deque()

    def __len__(self) -> int:
        return len(self._front) + (len(self._middle) - self._taken) // 2 + len(self._behind)

    @property
    def in_memory(self) -> int:
        """How many of the records are in memory."""
        return len(self._front) + len(self._kept) + len(self._behind)

    @property
    def last_position(self) -> int:
        """The highest position of any record that the journal has, 0 where there is none."""
        held = (item.position for line in (self._front, self._kept, self._behind) for item in line)
        return max(0, max(held, default=0), max(self._middle[self._taken :: 2], default=0))

    def unwritten(self) -> list[Item]:
        """The records that only memory has."""
        return [item for line in (self._front, self._kept, self._behind) for item in line if not item.written]

    # ── in at one end, out at the other ─────────────────────────────────────────────────────────────────────────────

    def append(self, item: Item) -> None:
        """Put a record behind the last one."""
        if not self._behind and not self._middle and len(self._front) < self._in_memory:
            self._front.append(item)
            return
        self._behind.append(item)
        if len(self._behind) > self._in_memory:
            self._let_go()

    def _let_go(self) -> None:
        """Know what is durable by its place alone."""
        behind, synced = self._behind, self._journal.synced
        while behind and behind[0].position <= synced:
            item = behind.popleft()
            if item.written and self._journal.has_durable(item.position):
                self._middle.extend((item.position, _code(item)))
            else:
                self._keep(item)

    def _keep(self, item: Item) -> None:
        self._middle.extend((_KEPT, 0))
        self._kept.append(item)

    def first(self, most: int) -> list[Item]:
        """The oldest so many records; they stay in line."""
        while len(self._front) < most and (self._middle or self._behind):
            if self._middle:
                self._read_back()
            else:
                self._front.extend(self._behind)
                self._behind.clear()
        return list(islice(self._front, most))

    def pop_first(self) -> Item:
        """Take the oldest record out of the line."""
        if not self._front:
            self.first(1)
        return self._front.popleft()

    def put_back(self, items: Iterable[Item]) -> None:
        """Put records before all others, in their order."""
        self._front.extendleft(reversed(list(items)))

    def _read_back(self) -> None:
        """Have the oldest records of the middle in memory again."""
        for _ in range(READ_AT_ONCE):
            position, code = self._middle[self._taken], self._middle[self._taken + 1]
            self._taken += 2
            item = self._kept.popleft() if position == _KEPT else self._read(position, code)
            if item is not None:
                self._front.append(item)
            if self._taken == len(self._middle):
                break
        if self._taken == len(self._middle) or self._taken > _MIDDLE_CUT:
            del self._middle[: self._taken]
            self._taken = 0

    def _read(self, position: int, code: int) -> Item | None:
        record = self._journal.reread(position)
        item = None if record is None else item_of(position, record)
        if item is None:
            _log.error("a record of the journal cannot be read back", extra={"position": position})
            return None
        item.placed_at, item.accounted = code >> 1, bool(code & 1)
        return item

    # ── when PostgreSQL has lost what it had confirmed ──────────────────────────────────────────────────────────────

    def send_again(self, found: Iterable[Item], tell: Callable[[Noted], None]) -> None:
        """Put all that the journal has behind what PostgreSQL has into the line, each once; the rest comes after it.

        Args:
            found: what the journal has, in its order.
            tell: told of each note in the line.
        """
        codes = dict(zip(self._middle[self._taken :: 2], self._middle[self._taken + 1 :: 2], strict=True))
        held = {identity(item.record): item for line in (self._front, self._kept, self._behind) for item in line}
        again: dict[Hashable, Item | tuple[int, int]] = {}
        for item in found:
            about = identity(item.record)
            code = codes.get(item.position)
            if about not in again:
                item.accounted = True
                mine = held.get(about)
                place = item.position, _code(item) if code is None else code
                again[about] = mine or (place if self._journal.has_durable(item.position) else item)
                if isinstance(item, Noted):
                    tell(item)
            elif code is not None and isinstance(first := again[about], tuple):
                again[about] = first[0], code
        for about, item in held.items():
            if again.setdefault(about, item) is item and isinstance(item, Noted):
                tell(item)
        self._begin_with(again.values())

    def _begin_with(self, line: Iterable[Item | tuple[int, int]]) -> None:
        self._front.clear()
        self._kept.clear()
        self._behind.clear()
        self._middle, self._taken = array("q"), 0
        for item in line:
            if isinstance(item, tuple):
                self._middle.extend(item)
            else:
                self._keep(item)


def _code(item: Item) -> int:
    """Where an item's hold was placed, and in the last bit whether the book knows of it."""
    return item.placed_at * 2 + item.accounted


def item_of(position: int, record: Record) -> Item | None:
    """A record of a journal as it is queued, None for one that is not settled by itself."""
    if isinstance(record, EndRecord):
        return Settling(position, record)
    return Noted(position, record) if isinstance(record, DeferRecord | OwnerRecord | ForgetRecord) else None
