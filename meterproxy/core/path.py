"""Paths: the limits that a request draws from, and how much it draws of each.

Rules
-----
- What is drawn follows from the measure alone: of two limits that count the same, a request draws the same amount. So
  a hold is one path, which many share, and one amount for each measure.
- A path is written with every record that draws on it, one limit after the other, as `Draw` has them: a record says
  everything by itself. What does not change from record to record is put together once.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from threading import Lock
from typing import Any, Final, NamedTuple, Self
from uuid import UUID
from weakref import WeakValueDictionary

import msgspec

ByMeasure = tuple[int, int, int, int, int]
"""An amount for each measure, in the order of their numbers (see `core.limit.Measure`)."""
MEASURES: Final = 5

_pack: Final = msgspec.msgpack.Encoder().encode


class Draw(NamedTuple):
    """What one hold took from one limit window's lease.

    `window_start_us` is 0 for limits without a window. `amount` is in the limit's own measure (nanodollars for credit),
    whose number `measure` is. `counted`: nothing was lent for it, the limit only counts.
    """

    limit_id: UUID
    window_start_us: int
    session_id: UUID
    amount: int
    measure: int = 0
    counted: bool = False


class Source(NamedTuple):
    """A limit window that a path leads through, and the session whose lease pays; the words are those of `Draw`."""

    limit_id: UUID
    window_start_us: int
    session_id: UUID
    measure: int = 0
    counted: bool = False


class Pieces:
    """A MessagePack array of which a few numbers change: all other bytes are put together once."""

    __slots__ = ("_pick", "template")

    def __init__(self, items: Sequence[tuple[bytes, int, bytes]]) -> None:
        """Of each item: the bytes before, which of the changing pieces comes in between, the bytes behind."""
        head = _pack([None] * len(items))
        parts = [head[: len(head) - len(items)]]
        for before, _, behind in items:
            parts += (before.replace(b"%", b"%%"), b"%b", behind.replace(b"%", b"%%"))
        self.template = b"".join(parts)
        self._pick: Callable[[Sequence[bytes]], Any] = (
            itemgetter(*(piece for _, piece, _ in items)) if items else lambda _changing: ()
        )

    def filled(self, changing: Sequence[bytes]) -> bytes:
        """The array with these pieces in it."""
        filled: bytes = self.template % self._pick(changing)
        return filled


class Path:
    """Limit windows in the order in which a request draws from them, credit last; `measures` are those it has.

    There is one object for each path, so that what many records have drawn is summed by identity.
    """

    __slots__ = ("__weakref__", "_pieces", "credit_alone", "measures", "sources")

    sources: tuple[Source, ...]
    measures: tuple[int, ...]
    credit_alone: bool
    """Whether it leads to one lease and nowhere else."""
    _pieces: Pieces

    def __new__(cls, sources: Iterable[Source]) -> Self:
        """The one path through these."""
        sources = tuple(sources)
        pieces = Pieces([_written(source) for source in sources])
        path: Self | None = _PATHS.get(pieces.template)
        if path is None:
            made = super().__new__(cls)
            made.sources, made._pieces = sources, pieces
            made.measures = tuple(sorted({source.measure for source in sources}))
            made.credit_alone = len(sources) == 1 and not sources[0].counted
            with _MAKING:  # journals are read in threads
                path = _PATHS.setdefault(pieces.template, made)
        return path

    @property
    def sessions(self) -> frozenset[UUID]:
        """Whose leases pay."""
        return frozenset(source.session_id for source in self.sources)

    def written(self, amounts: ByMeasure) -> bytes:
        """The draws of these amounts as MessagePack."""
        return self._pieces.filled([*map(_pack, amounts)])


_PATHS: Final["WeakValueDictionary[bytes, Any]"] = WeakValueDictionary()
_MAKING: Final = Lock()
"""Held by whoever puts a path there: two threads may make the same one."""


def _written(source: Source) -> tuple[bytes, int, bytes]:
    """A draw as MessagePack, around its amount."""
    limit_id, start_us, session_id, measure, counted = source
    head = _pack([None] * len(Draw._fields))[:1]
    before = head + _pack(limit_id.bytes) + _pack(start_us) + _pack(session_id.bytes)
    return before, measure, _pack(measure) + _pack(counted)


class Draws:
    """What one hold draws from the limits on its path; `amounts` of measures that the path has not mean nothing."""

    __slots__ = ("amounts", "path", "written")

    def __init__(self, path: Path, amounts: ByMeasure) -> None:
        self.path = path
        self.amounts = amounts
        self.written: msgspec.Raw | None = None
        """What `write` has made."""

    @classmethod
    def of(cls, draws: Iterable[Draw]) -> Self:
        """The same from single draws; of those that are only counted nobody asks how much they held.

        Raises:
            ValueError: two leases of one measure differ, or a measure is unknown.
        """
        told = list(draws)
        amounts = [0] * MEASURES
        for draw in sorted(told, key=_is_leased):
            if not 0 <= draw.measure < MEASURES:
                raise ValueError(f"there is no measure {draw.measure}")
            amounts[draw.measure] = draw.amount
        if any(draw.amount != amounts[draw.measure] for draw in told if not draw.counted):
            raise ValueError("limits of one measure are drawn from alike")
        a, b, c, d, e = amounts
        return cls(Path([Source(*draw[:3], *draw[4:]) for draw in told]), (a, b, c, d, e))

    def write(self) -> msgspec.Raw:
        """All of it as MessagePack, to be written when the hold is placed and again when it ends."""
        self.written = msgspec.Raw(self.path.written(self.amounts))
        return self.written

    @property
    def each(self) -> tuple[int, ...]:
        """The amount of each draw."""
        return tuple([self.amounts[source.measure] for source in self.path.sources])

    def __iter__(self) -> Iterator[Draw]:
        for limit_id, start_us, session_id, measure, counted in self.path.sources:
            yield Draw(limit_id, start_us, session_id, self.amounts[measure], measure, counted)

    def __len__(self) -> int:
        return len(self.path.sources)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Draws) and self.path is other.path and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(self.path)

    def __repr__(self) -> str:
        return f"Draws.of({list(self)})"


def _is_leased(draw: Draw) -> bool:
    return not draw.counted


def write_draws(value: object) -> msgspec.Raw:
    """`enc_hook` of whatever writes records down."""
    if isinstance(value, Draws):
        return value.written or value.write()
    raise NotImplementedError(f"{type(value).__name__} is in no record")


def read_draws(kind: type, told: Any) -> Draws:
    """`dec_hook` of whatever reads records. Raises TypeError, ValueError."""
    if kind is not Draws:
        raise NotImplementedError(f"{kind.__name__} is in no record")
    try:
        return Draws.of(
            [Draw(UUID(bytes=limit_id), start_us, UUID(bytes=session_id), *rest)
             for limit_id, start_us, session_id, *rest in told]
        )  # fmt: skip
    except AssertionError as error:  # an id that is no bytes
        raise TypeError("an id of a draw is no id") from error
