"""Notifications in words: what happened, what it means, and where to look."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from meterproxy.control.limit_answers import AMOUNT, COUNTED
from meterproxy.core.money import dollars

FULL: Final = 100
_BY_WINDOW: Final = {"day": " a day", "week": " a week", "month": " a month", "total": " in all"}


@dataclass(frozen=True, slots=True)
class Words:
    """A notification as people read it; `link` leads to a page of ours."""

    title: str
    text: str
    link: str


def words_of(kind: str, subject_id: object, detail: Mapping[str, Any], *, sees_budgets: bool) -> Words:
    """The words of a notification; of a kind that a later release has written, its name."""
    told = _BY_KIND.get(kind)
    if told is None:
        return Words(kind, "", "/notifications")
    words = told(detail)
    if kind in {"limit.passed", "limit.refused"}:
        return Words(words.title, words.text, f"/budgets?first={subject_id}" if sees_budgets else "/activity")
    return words


def _limit_passed(detail: Mapping[str, Any]) -> Words:
    mark = detail["mark"]
    what = _name_of(detail)
    title = f"{what} is used up" if mark >= FULL else f"{what} has passed {mark} %"
    used = f"{_quantity(detail, 'used')} of {_quantity(detail, 'cap')}{_BY_WINDOW.get(detail['window'], '')} were used."
    return Words(title, f"{used} {_meaning(detail)}", "/budgets")


def _name_of(detail: Mapping[str, Any]) -> str:
    noun = "budget" if detail["measure"] == "amount" else "limit"
    if detail["name"]:
        return f"The {noun} “{detail['name']}”"
    whose = "the organization" if detail["scope"] in {"account", "organization"} else f"one {detail['scope']}"
    return f"A {noun} of {whose}"


def _meaning(detail: Mapping[str, Any]) -> str:
    if detail["enforcement"] != "hard":
        return "It only counts: nothing is refused."
    grace = f" and its grace of {_quantity(detail, 'grace')}" if detail["grace"] else ""
    if detail["mark"] < FULL or grace:
        return f"When all of it{grace} is used, requests that draw from it are refused."
    until = "its cap is raised" if detail["window"] == "total" else f"the next {detail['window']} begins"
    return f"Requests that draw from it are refused until {until}."


def _quantity(detail: Mapping[str, Any], name: str) -> str:
    number, measure = detail[name], detail["measure"]
    if measure == AMOUNT:
        return dollars(number)
    counted = COUNTED.get(measure, measure)
    noun, *more = counted.split(" ")
    return " ".join([f"{number:,}", noun.removesuffix("s") if number == 1 else noun, *more])


def _credit_low(detail: Mapping[str, Any]) -> Words:
    left, below = dollars(detail["left_nanos"]), dollars(detail["below_nanos"])
    return Words("Credit is low", f"{left} was left, less than your mark of {below}.", "/credits#add")


def _limit_refused(detail: Mapping[str, Any]) -> Words:
    what, often = _name_of(detail), _BY_WINDOW.get(detail["window"], "")
    asked = f"{_asked_by(detail)} may use up to {_quantity(detail, 'amount')}, more than was left"
    return Words(f"{what} refuses requests", f"{asked} of {_quantity(detail, 'cap')}{often}.", "/budgets")


def _credit_refused(detail: Mapping[str, Any]) -> Words:
    text = f"{_asked_by(detail)} may cost up to {_quantity(detail, 'amount')}, more than was left."
    return Words("Requests are refused for want of credit", text, "/credits#add")


def _asked_by(detail: Mapping[str, Any]) -> str:
    return f"What the key “{detail['key']}” asked for" if detail["key"] else "What was asked for"


def _credit_exhausted(_detail: Mapping[str, Any]) -> Words:
    text = "Less than a cent was left. Requests that may cost more than that are refused until credit is added."
    return Words("Credit is used up", text, "/credits#add")


def _credit_runs_out(detail: Mapping[str, Any]) -> Words:
    day, earliest, latest = detail["runs_out"], detail["runs_out_earliest"], detail["runs_out_latest"]
    between = (
        ""
        if earliest == latest
        else f", between {earliest} and {latest}"
        if latest
        else f", {earliest} at the earliest"
    )
    text = f"{dollars(detail['left_nanos'])} was left. At the pace of the last weeks that lasts until {day}{between}."
    return Words(f"Credit runs out around {day}", text, "/credits#add")


def _purchase_ordered(detail: Mapping[str, Any]) -> Words:
    text = "Credit fell below your mark. It is there when the money has arrived: the credits page says how to pay."
    return Words(f"{dollars(detail['amount_nanos'])} of credit was ordered: {detail['code']}", text, "/credits")


def _purchase_confirmed(detail: Mapping[str, Any]) -> Words:
    booked, ordered = dollars(detail["booked_nanos"]), dollars(detail["amount_nanos"])
    other = "" if booked == ordered else f" {ordered} had been ordered."
    return Words(f"{booked} of credit was added", f"The purchase {detail['code']} was paid.{other}", "/credits")


def _purchase_declined(detail: Mapping[str, Any]) -> Words:
    why = f": {detail['reason']}" if detail["reason"] else "."
    text = f"Nothing was booked of the {dollars(detail['amount_nanos'])} that had been ordered{why}"
    return Words(f"The purchase {detail['code']} was declined", text, "/credits")


_BY_KIND: Final[Mapping[str, Callable[[Mapping[str, Any]], Words]]] = {
    "limit.passed": _limit_passed,
    "limit.refused": _limit_refused,
    "credit.refused": _credit_refused,
    "credit.low": _credit_low,
    "credit.exhausted": _credit_exhausted,
    "credit.runs_out": _credit_runs_out,
    "purchase.ordered": _purchase_ordered,
    "purchase.confirmed": _purchase_confirmed,
    "purchase.declined": _purchase_declined,
}
