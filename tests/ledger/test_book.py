"""The book: text tables that can be read aloud, and a machine that compares it with an independent auditor."""

import re
from collections.abc import Callable
from uuid import NAMESPACE_OID, uuid5

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, precondition, rule

from meterproxy.core.lending import LeaseKey
from meterproxy.ledger.book import Book, End, Lease, Placed, Short

FACTS = ("granted", "consumed", "returned", "free", "held", "unsettled", "deferred", "outstanding")


def key_of(name: str) -> LeaseKey:
    return LeaseKey(uuid5(NAMESPACE_OID, "account"), uuid5(NAMESPACE_OID, name), 0)


class Teller:
    """Reads a table line by line. A line is `verb arguments -> answer  facts…`; facts are of the last lease named.

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
            for lease in self.book.leases.values():
                lease.check()
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
        pairs = tuple((key_of(lease), int(amount)) for lease, amount in zip(draws[::2], draws[1::2], strict=True))
        self.lease = draws[0]
        placed = self.book.place(pairs)
        if isinstance(placed, Placed):
            self.placed[name] = placed
            return "placed"
        self.lease = next(lease for lease in draws[::2] if key_of(lease) == placed.key)
        return f"short {self.lease} {placed.missing}"

    def extend(self, words: list[str]) -> str:
        name, *changes = words
        return "extended" if self.book.extend(self.placed[name], [int(change) for change in changes]) else "refused"

    def capture(self, words: list[str]) -> str:
        name, *amounts = words
        captured = self.book.capture(self.placed[name], [int(amount) for amount in amounts])
        over = sum(captured.overrun)
        return f"{captured.end.value}{f' over {over}' if over else ''}"

    def defer(self, words: list[str]) -> str:
        placed = self.placed[words[0]]
        return self.book.defer(placed, [int(word) for word in words[1:]] or [held for _, held in placed.draws]).value

    def release(self, words: list[str]) -> str:
        return self.book.release(self.placed[words[0]], [int(word) for word in words[1:]]).value

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
        capture H1 350          -> ended over 250   free 400 held 0 unsettled 100 outstanding 500
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
        capture H1 75 0         -> ended over 5
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
        hold    H1 A 501        -> short A 1    free 500 held 0
        hold    H1 A 500        -> placed       free 0
        hold    H2 A 1          -> short A 1
    """,
    "a hold draws from every limit or from none": """
        grant   A 500           ->
        grant   B 50            ->
        hold    H1 A 100 B 60   -> short B 10   free 50 held 0
        look    A               ->              free 500 held 0
        hold    H1 A 100 B 50   -> placed       free 400 held 100
        look    B               ->              free 0 held 50
    """,
    "the first limit that is short is the one named": """
        grant   A 10            ->
        grant   B 10            ->
        hold    H1 A 11 B 12    -> short A 1
        hold    H1 B 12 A 11    -> short B 2
    """,
    "each limit of a capture overruns by itself": """
        grant   A 100           ->
        grant   B 10            ->
        hold    H1 A 100 B 10   -> placed
        capture H1 70 30        -> ended over 20    free 30 unsettled 70
        look    B               ->              free 0 unsettled 10
        capture H1 70 10        -> differs
        capture H1 70 30        -> already
    """,
    "a limit that was never lent is short of everything": """
        grant   A 100           ->
        hold    H1 A 1 C 5      -> short C 5
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
        hold    H2 A 41         -> short A 1
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


def test_a_hold_that_draws_twice_from_one_limit_must_fit_in_sum() -> None:
    """Two draws of one lease never take more than is free."""
    book, key = Book(), key_of("A")
    book.grant(key, 10)
    assert book.place(((key, 6), (key, 6))) == Short(key, 2)
    book.leases[key].check()
    placed = book.place(((key, 6), (key, 4)))
    assert isinstance(placed, Placed)
    assert book.capture(placed, (7, 1)).overrun == (1, 0)
    book.leases[key].check()


def test_lease_keys_of_the_same_parts_are_the_same_object() -> None:
    """A key that was read from anywhere finds the lease that another was borrowed under."""
    key = key_of("A")
    assert LeaseKey(key.account_id, key.limit_id, 0) is key
    assert LeaseKey(key.account_id, key.limit_id, 1) != key
    assert key_of("B") != key


class BookMachine(RuleBasedStateMachine):
    """The book against an auditor that keeps nothing but a list of what happened."""

    holds = Bundle("holds")

    def __init__(self) -> None:
        super().__init__()
        self.book = Book()
        self.granted = dict.fromkeys(map(key_of, "AB"), 0)
        self.returned = dict(self.granted)
        self.settled = dict(self.granted)
        self.open: dict[Placed, tuple[tuple[LeaseKey, int], ...]] = {}
        self.ended: dict[Placed, tuple[tuple[LeaseKey, int], ...]] = {}
        self.how: dict[Placed, tuple[int, ...] | None] = {}

    def spent(self, key: LeaseKey) -> int:
        return sum(amount for draws in self.ended.values() for drawn, amount in draws if drawn == key)

    def reserved(self, key: LeaseKey) -> int:
        return sum(amount for draws in self.open.values() for drawn, amount in draws if drawn == key)

    def rest(self, key: LeaseKey) -> int:
        return self.granted[key] - self.returned[key] - self.spent(key) - self.reserved(key)

    @rule(name=st.sampled_from("AB"), amount=st.integers(0, 1000))
    def grant(self, name: str, amount: int) -> None:
        self.book.grant(key_of(name), amount)
        self.granted[key_of(name)] += amount

    @rule(target=holds, draws=st.lists(st.tuples(st.sampled_from("AB"), st.integers(0, 600)), max_size=3))
    def place(self, draws: list[tuple[str, int]]) -> object:
        pairs = tuple((key_of(name), amount) for name, amount in draws)
        wanted = {key: sum(amount for drawn, amount in pairs if drawn == key) for key, _ in pairs}
        fits = all(self.rest(key) >= amount for key, amount in wanted.items())
        placed = self.book.place(pairs)
        assert isinstance(placed, Placed) == fits
        if isinstance(placed, Short):
            assert placed.missing >= 0
            return multiple()
        self.open[placed] = pairs
        return placed

    @rule(placed=holds, data=st.data())
    def extend(self, placed: Placed, data: st.DataObject) -> None:
        if placed not in self.open:
            return
        draws = self.open[placed]
        changes = [data.draw(st.integers(-amount, 300)) for _, amount in draws]
        if len({key for key, _ in draws}) < len(draws):
            return  # no request draws twice from one limit
        fits = all(self.rest(key) >= change for (key, _), change in zip(draws, changes, strict=True))
        assert self.book.extend(placed, changes) == fits
        if fits:
            self.open[placed] = tuple(
                (key, amount + change) for (key, amount), change in zip(draws, changes, strict=True)
            )

    @precondition(lambda self: self.open or self.ended)
    @rule(placed=holds, data=st.data())
    def capture(self, placed: Placed, data: st.DataObject) -> None:
        draws = self.open.get(placed) or self.ended.get(placed, ())
        amounts = tuple(data.draw(st.integers(0, amount + 50)) for _, amount in draws)
        known, earlier = placed in self.how, self.how.get(placed)
        captured = self.book.capture(placed, amounts)
        if known:
            assert captured.end is (End.ALREADY if earlier == amounts else End.DIFFERS)
            return
        assert captured.end is End.ENDED
        self.how[placed] = amounts
        paid = tuple(min(amount, held) for amount, (_, held) in zip(amounts, self.open[placed], strict=True))
        assert captured.consumed == paid
        assert sum(captured.overrun) == sum(amounts) - sum(paid)
        self.ended[placed] = tuple((key, used) for (key, _), used in zip(self.open.pop(placed), paid, strict=True))

    @rule(placed=holds)
    def release(self, placed: Placed) -> None:
        known, earlier = placed in self.how, self.how.get(placed)
        end = self.book.release(placed)
        if known:
            assert end is (End.ALREADY if earlier is None else End.DIFFERS)
            return
        assert end is End.ENDED
        self.how[placed] = None
        self.open.pop(placed)
        self.ended[placed] = ()

    @rule(name=st.sampled_from("AB"), share=st.integers(0, 100))
    def settle(self, name: str, share: int) -> None:
        key = key_of(name)
        amount = (self.spent(key) - self.settled[key]) * share // 100
        if key in self.book.leases:
            self.book.settled(key, amount)
            self.settled[key] += amount

    @rule(name=st.sampled_from("AB"), keep=st.integers(0, 500))
    def give_back(self, name: str, keep: int) -> None:
        key = key_of(name)
        amount = max(self.rest(key) - keep, 0) if key in self.book.leases else 0
        assert self.book.give_back(key, keep) == amount
        self.returned[key] += amount

    @invariant()
    def the_book_is_what_the_auditor_says(self) -> None:
        for key, lease in self.book.leases.items():
            lease.check()
            assert (lease.granted, lease.returned, lease.consumed) == (
                self.granted[key],
                self.returned[key],
                self.settled[key],
            )
            assert (lease.free, lease.held) == (self.rest(key), self.reserved(key))
            assert lease.unsettled == self.spent(key) - self.settled[key]
        assert self.book.open == len(self.open)


TestBookMachine = BookMachine.TestCase
TestBookMachine.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


def test_what_draws_nothing_leaves_nothing_behind() -> None:
    """What is free needs no lease of the windows that it passes, however many there are."""
    book = Book()
    placed = book.place(((key_of("budget"), 0),))
    assert isinstance(placed, Placed)
    assert book.capture(placed, (3,)).overrun == (3,)
    assert book.leases == {}
