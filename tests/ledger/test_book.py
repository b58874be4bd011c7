"""The book: text tables that can be read aloud, and a machine that compares it with an independent auditor."""

import re
from collections.abc import Callable
from uuid import NAMESPACE_OID, uuid5

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, precondition, rule

from meterproxy.core.lending import LeaseKey
from meterproxy.core.path import ByMeasure
from meterproxy.ledger.book import Book, End, Lease, Leases, Placed

MEASURES = ("amount", "requests", "tokens", "concurrent", "exposure")
FACTS = ("granted", "consumed", "returned", "free", "held", "unsettled", "deferred", "outstanding")


def key_of(name: str) -> LeaseKey:
    return LeaseKey(uuid5(NAMESPACE_OID, "account"), uuid5(NAMESPACE_OID, name), 0)


def leases_of(book: Book, **names: str) -> Leases:
    """The leases of a route, by measure: each name is one letter. What was never lent is a lease of nothing."""
    return tuple(
        (MEASURES.index(measure), tuple(book.leases.get(key_of(name)) or Lease() for name in named))
        for measure, named in names.items()
    )


def amounts_of(*amounts: int) -> ByMeasure:
    a, b, c, d, e = (*amounts, 0, 0, 0, 0, 0)[:5]
    return a, b, c, d, e


class Teller:
    """Reads a table line by line. A line is `verb arguments -> answer  facts…`; facts are of the last lease named.

    Of each lease the measure is its own: A is of the first, B of the second, C of the third.

    grant L 10 · hold H L 3 [L 2…] · extend H 5 [-5…] · capture H 1 [2…] · defer H [1…] · release H [1…] · settle L 3 · return L [keep 2] · look L
    """

    def __init__(self) -> None:
        self.book = Book()
        self.lease = ""
        self.placed: dict[str, Placed] = {}
        self.verbs: dict[str, Callable[[list[str]], str]] = {
            "grant": self.grant,
            "hold": self.hold,
            "extend": self.extend,
            "capture": self.capture,
            "defer": self.defer,
            "release": self.release,
            "settle": self.settle,
            "return": self.give_back,
            "look": self.look,
        }

    def read(self, table: str) -> None:
        for line in filter(None, map(str.strip, table.splitlines())):
            told, _, expected = (part.strip() for part in line.partition("->"))
            verb, *arguments = told.split()
            answer = self.verbs[verb](arguments)
            assert all(map(self.book.adds_up, self.book.leases.values())), line
            assert [answer, *self.facts(expected)] == [*self.words(expected)], line

    def words(self, expected: str) -> list[str]:
        answer = re.split(rf"\s*\b(?:{'|'.join(FACTS)})\b", expected)[0]
        return [answer, *(word for pair in re.findall(rf"({'|'.join(FACTS)}) (-?\d+)", expected) for word in pair)]

    def facts(self, expected: str) -> list[str]:
        lease = self.book.leases.get(key_of(self.lease), Lease())
        names = re.findall(rf"({'|'.join(FACTS)}) -?\d+", expected)
        return [word for name in names for word in (name, str(getattr(lease, name)))]

    def grant(self, words: list[str]) -> str:
        self.lease, amount = words
        self.book.grant(key_of(self.lease), int(amount))
        return ""

    def hold(self, words: list[str]) -> str:
        name, *draws = words
        amounts = [0, 0, 0]
        for lease, amount in zip(draws[::2], draws[1::2], strict=True):
            amounts["ABC".index(lease)] = int(amount)
        self.lease = draws[0]
        leases = leases_of(self.book, **{MEASURES["ABC".index(lease)]: lease for lease in draws[::2]})
        placed = self.book.place(leases, amounts_of(*amounts))
        if placed is None:
            return "short"
        self.placed[name] = placed
        return "placed"

    def extend(self, words: list[str]) -> str:
        name, *changes = words
        return "extended" if self.book.extend(self.placed[name], amounts_of(*map(int, changes))) else "refused"

    def capture(self, words: list[str]) -> str:
        name, *amounts = words
        return self.book.capture(self.placed[name], amounts_of(*map(int, amounts))).value

    def defer(self, words: list[str]) -> str:
        placed = self.placed[words[0]]
        return self.book.defer(placed, amounts_of(*map(int, words[1:])) if words[1:] else placed.amounts).value

    def release(self, words: list[str]) -> str:
        return self.book.release(self.placed[words[0]], amounts_of(*map(int, words[1:]))).value

    def settle(self, words: list[str]) -> str:
        self.lease, amount = words
        self.book.settled(key_of(self.lease), int(amount))
        return ""

    def give_back(self, words: list[str]) -> str:
        self.lease = words[0]
        keep = int(words[2]) if words[1:] else 0
        return f"back {self.book.give_back(key_of(self.lease), keep)}"

    def look(self, words: list[str]) -> str:
        self.lease = words[0]
        return ""


TABLES = {
    "a hold is captured once": """
        grant   A 1000          ->              free 1000
        hold    H1 A 300        -> placed       free 700 held 300
        capture H1 120          -> ended        free 880 held 0 unsettled 120
        capture H1 120          -> already      free 880 unsettled 120
        capture H1 121          -> differs      free 880 unsettled 120
    """,
    "a release gives all of it back, once": """
        grant   A 500           ->
        hold    H1 A 500        -> placed       free 0 held 500
        release H1              -> ended        free 500 held 0 unsettled 0
        release H1              -> already      free 500
    """,
    "a captured hold is not released": """
        grant   A 500           ->
        hold    H1 A 500        -> placed
        capture H1 500          -> ended        free 0 unsettled 500
        release H1              -> differs      free 0 unsettled 500
    """,
    "a released hold is not captured": """
        grant   A 500           ->
        hold    H1 A 500        -> placed
        release H1              -> ended
        capture H1 1            -> differs      free 500 unsettled 0
        capture H1 0            -> differs      free 500 unsettled 0
    """,
    "what overran never touches the lease": """
        grant   A 500           ->
        hold    H1 A 100        -> placed
        capture H1 350          -> ended   free 400 held 0 unsettled 100 outstanding 500
        capture H1 350          -> already
        capture H1 100          -> differs
        settle  A 100           ->              unsettled 0 consumed 100 outstanding 400
    """,
    "a hold that becomes durable is captured whole": """
        grant   A 500           ->
        grant   B 50            ->
        hold    H1 A 100 B 20   -> placed
        defer   H1              -> ended
        look    A               ->              free 400 held 0 unsettled 100 deferred 100 outstanding 500
        look    B               ->              free 30 held 0 unsettled 20 deferred 20
        defer   H1              -> already
        capture H1 30 20        -> differs
        release H1              -> differs
        settle  A 100           ->              unsettled 0 consumed 100 deferred 100 outstanding 400
    """,
    "what does not go on with a durable hold is free again": """
        grant   A 500           ->
        grant   B 2             ->
        hold    H1 A 100 B 1    -> placed
        look    B               ->              free 1 held 1
        defer   H1 100 0        -> ended
        look    B               ->              free 2 held 0 unsettled 0 deferred 0
    """,
    "an extension takes all that is asked for, or nothing": """
        grant   A 100           ->
        grant   B 100           ->
        hold    H1 A 30 B 70    -> placed
        extend  H1 40 -40       -> extended
        look    A               ->              free 30 held 70
        look    B               ->              free 70 held 30
        extend  H1 31 -30       -> refused
        look    A               ->              free 30 held 70
        look    B               ->              free 70 held 30
        capture H1 75 0         -> ended
        look    A               ->              free 30 held 0 unsettled 70
        look    B               ->              free 100 held 0 unsettled 0
    """,
    "a release may keep a part": """
        grant   A 500           ->
        grant   B 2             ->
        hold    H1 A 100 B 1    -> placed
        release H1 0 1          -> ended
        look    A               ->              free 500 held 0 unsettled 0
        look    B               ->              free 1 held 0 unsettled 1
        release H1              -> already
    """,
    "an ended hold does not become durable": """
        grant   A 500           ->
        hold    H1 A 100        -> placed
        capture H1 30           -> ended
        defer   H1              -> differs      free 470 unsettled 30 deferred 0
    """,
    "a hold that does not fit leaves nothing behind": """
        grant   A 500           ->
        hold    H1 A 501        -> short    free 500 held 0
        hold    H1 A 500        -> placed       free 0
        hold    H2 A 1          -> short
    """,
    "a hold draws from every limit or from none": """
        grant   A 500           ->
        grant   B 50            ->
        hold    H1 A 100 B 60   -> short
        look    B               ->              free 50 held 0
        look    A               ->              free 500 held 0
        hold    H1 A 100 B 50   -> placed       free 400 held 100
        look    B               ->              free 0 held 50
    """,
    "each limit of a capture overruns by itself": """
        grant   A 100           ->
        grant   B 10            ->
        hold    H1 A 100 B 10   -> placed
        capture H1 70 30        -> ended    free 30 unsettled 70
        look    B               ->              free 0 unsettled 10
        capture H1 70 10        -> differs
        capture H1 70 30        -> already
    """,
    "a limit that was never lent is short of everything": """
        grant   A 100           ->
        hold    H1 A 1 C 5      -> short
        look    A               ->              free 100
    """,
    "only what is free goes back": """
        grant   A 1000          ->
        hold    H1 A 300        -> placed
        hold    H2 A 200        -> placed
        capture H2 150          -> ended
        return  A keep 50       -> back 500     free 50 held 300 unsettled 150 returned 500 outstanding 500
        return  A               -> back 50      free 0 returned 550
        return  A               -> back 0       free 0 returned 550
        release H1              -> ended        free 300
    """,
    "settling frees nothing": """
        grant   A 100           ->
        hold    H1 A 100        -> placed
        capture H1 60           -> ended        free 40 unsettled 60
        settle  A 60            ->              free 40 unsettled 0 consumed 60 outstanding 40
        hold    H2 A 41         -> short
    """,
    "nothing is a hold, too": """
        hold    H1 A 0          -> placed
        capture H1 0            -> ended
        release H1              -> differs
    """,
    "grants add up": """
        grant   A 10            ->              free 10
        hold    H1 A 10         -> placed
        grant   A 5             ->              free 5 granted 15 held 10
        return  A               -> back 5
        grant   A 5             ->              free 5 granted 20 returned 5
    """,
}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES.keys())
def test_tables(table: str) -> None:
    """What each line says is what the book answers and holds."""
    Teller().read(table)


def test_leases_of_one_measure_are_drawn_from_alike() -> None:
    """All of them or none; the one that is short may be any of them."""
    book = Book()
    for name, amount in (("A", 10), ("B", 7), ("C", 10)):
        book.grant(key_of(name), amount)
    leases = leases_of(book, amount="ABC")
    assert book.place(leases, amounts_of(8)) is None
    assert [book.free(key_of(name)) for name in "ABC"] == [10, 7, 10]
    placed = book.place(leases, amounts_of(6))
    assert placed is not None
    assert [book.free(key_of(name)) for name in "ABC"] == [4, 1, 4]
    assert book.capture(placed, amounts_of(5)) is End.ENDED
    assert [book.leases[key_of(name)].unsettled for name in "ABC"] == [5, 5, 5]
    assert [book.free(key_of(name)) for name in "ABC"] == [5, 2, 5]


def test_a_hold_says_when_one_of_its_leases_runs_low() -> None:
    """That is when more is to be borrowed, before a request has to wait for it."""
    book = Book()
    for name in "AB":
        book.grant(key_of(name), 10)
    book.leases[key_of("B")].low = 5
    leases = leases_of(book, amount="AB")
    first, second = book.place(leases, amounts_of(5)), book.place(leases, amounts_of(1))
    assert first is not None
    assert second is not None
    assert (first.low, second.low) == (False, True)


def test_a_lease_that_cannot_be_is_seen() -> None:
    """One of which something is negative, or of which something is held though nothing is open."""
    book, key = Book(), key_of("A")
    book.grant(key, 10)
    lease = book.leases[key]
    placed = book.place(leases_of(book, amount="A"), amounts_of(4))
    assert placed is not None
    assert book.adds_up(lease)
    lease.unsettled = 7
    assert not book.adds_up(lease), "less than nothing is held"
    lease.unsettled = 0
    assert book.release(placed) is End.ENDED
    assert book.adds_up(lease)
    lease.free -= 1
    assert not book.adds_up(lease), "somebody holds what nobody has asked for"


def test_lease_keys_of_the_same_parts_are_the_same_object() -> None:
    """A key that was read from anywhere finds the lease that another was borrowed under."""
    key = key_of("A")
    assert LeaseKey(key.account_id, key.limit_id, 0) is key
    assert LeaseKey(key.account_id, key.limit_id, 1) != key
    assert key_of("B") != key


class BookMachine(RuleBasedStateMachine):
    """The book against an auditor that keeps nothing but a list of what happened.

    Holds draw from any of three leases, of which A and B have one measure and C has another.
    """

    holds = Bundle("holds")

    def __init__(self) -> None:
        super().__init__()
        self.book = Book()
        self.granted = dict.fromkeys(map(key_of, "ABC"), 0)
        self.returned = dict(self.granted)
        self.settled = dict(self.granted)
        self.names: dict[Placed, str] = {}
        self.open: dict[Placed, ByMeasure] = {}
        self.ended: dict[Placed, ByMeasure] = {}
        self.how: dict[Placed, ByMeasure | None] = {}

    def sum_of(self, key: LeaseKey, holds: dict[Placed, ByMeasure]) -> int:
        [name] = [name for name in "ABC" if key_of(name) is key]
        return sum(amounts[name == "C"] for placed, amounts in holds.items() if name in self.names[placed])

    def rest(self, key: LeaseKey) -> int:
        used = self.sum_of(key, self.ended) + self.sum_of(key, self.open)
        return self.granted[key] - self.returned[key] - used

    @rule(name=st.sampled_from("ABC"), amount=st.integers(0, 1000))
    def grant(self, name: str, amount: int) -> None:
        self.book.grant(key_of(name), amount)
        self.granted[key_of(name)] += amount

    @rule(name=st.sampled_from("ABC"), low=st.integers(0, 1000))
    def set_low(self, name: str, low: int) -> None:
        if key_of(name) in self.book.leases:
            self.book.leases[key_of(name)].low = low

    @rule(
        target=holds,
        names=st.sets(st.sampled_from("ABC"), max_size=3).map(sorted).map("".join),
        amounts=st.tuples(st.integers(0, 600), st.integers(0, 600)),
    )
    def place(self, names: str, amounts: tuple[int, int]) -> object:
        fits = all(self.rest(key_of(name)) >= amounts[name == "C"] for name in names)
        leases = leases_of(self.book, amount=names.replace("C", ""), requests="C" * ("C" in names))
        placed = self.book.place(leases, amounts_of(*amounts))
        assert (placed is not None) == fits
        if placed is None:
            return multiple()
        # a lease of nothing that was made up for this hold has nothing to do with one that is lent later
        self.names[placed] = "".join(name for name in names if key_of(name) in self.book.leases)
        self.open[placed] = amounts_of(*amounts)
        low = [self.book.leases[key_of(name)] for name in self.names[placed]]
        assert placed.low == any(lease.free < lease.low for lease in low)
        return placed

    @rule(placed=holds, more=st.tuples(st.integers(-600, 300), st.integers(-600, 300)))
    def extend(self, placed: Placed, more: tuple[int, int]) -> None:
        if placed not in self.open:
            return
        held = self.open[placed]
        a, b = max(more[0], -held[0]), max(more[1], -held[1])
        drawn = [lease for _, group in placed.leases for lease in group]
        made_up = any(lease not in self.book.leases.values() for lease in drawn)
        names = self.names[placed]
        fits = all(self.rest(key_of(name)) >= (a, b)[name == "C"] for name in names)
        if made_up:
            return
        assert self.book.extend(placed, amounts_of(a, b)) == fits
        if fits:
            self.open[placed] = amounts_of(held[0] + a, held[1] + b)

    @precondition(lambda self: self.open or self.ended)
    @rule(placed=holds, used=st.tuples(st.integers(0, 700), st.integers(0, 700)))
    def capture(self, placed: Placed, used: tuple[int, int]) -> None:
        amounts = amounts_of(*used)
        known, earlier = placed in self.how, self.how.get(placed)
        end = self.book.capture(placed, amounts)
        if known:
            assert end is (End.ALREADY if earlier == amounts else End.DIFFERS)
            return
        assert end is End.ENDED
        self.how[placed] = amounts
        held = self.open.pop(placed)
        self.ended[placed] = amounts_of(*(min(pair) for pair in zip(amounts, held, strict=True)))

    @rule(placed=holds, kept=st.tuples(st.integers(0, 700), st.integers(0, 700)))
    def release(self, placed: Placed, kept: tuple[int, int]) -> None:
        known, earlier = placed in self.how, self.how.get(placed)
        end = self.book.release(placed, amounts_of(*kept))
        if known:
            assert end is (End.ALREADY if earlier is None else End.DIFFERS)
            return
        assert end is End.ENDED
        self.how[placed] = None
        held = self.open.pop(placed)
        self.ended[placed] = amounts_of(*(min(pair) for pair in zip(amounts_of(*kept), held, strict=True)))

    @rule(name=st.sampled_from("ABC"), share=st.integers(0, 100))
    def settle(self, name: str, share: int) -> None:
        key = key_of(name)
        amount = (self.sum_of(key, self.ended) - self.settled[key]) * share // 100
        if key in self.book.leases:
            self.book.settled(key, amount)
            self.settled[key] += amount

    @rule(name=st.sampled_from("ABC"), keep=st.integers(0, 500))
    def give_back(self, name: str, keep: int) -> None:
        key = key_of(name)
        amount = max(self.rest(key) - keep, 0) if key in self.book.leases else 0
        assert self.book.give_back(key, keep) == amount
        self.returned[key] += amount

    @invariant()
    def the_book_is_what_the_auditor_says(self) -> None:
        for key, lease in self.book.leases.items():
            assert self.book.adds_up(lease)
            assert (lease.granted, lease.returned, lease.consumed) == (
                self.granted[key],
                self.returned[key],
                self.settled[key],
            )
            assert (lease.free, lease.held) == (self.rest(key), self.sum_of(key, self.open))
            assert lease.unsettled == self.sum_of(key, self.ended) - self.settled[key]
        assert self.book.open == len(self.open)


TestBookMachine = BookMachine.TestCase
TestBookMachine.settings = settings(max_examples=40, stateful_step_count=30)


def test_what_draws_nothing_leaves_nothing_behind() -> None:
    """What is free needs no lease of the windows that it passes, however many there are."""
    book = Book()
    placed = book.place(leases_of(book, amount="A", tokens="BC"), amounts_of(0))
    assert placed is not None
    assert book.capture(placed, amounts_of(3)) is End.ENDED
    assert book.leases == {}
