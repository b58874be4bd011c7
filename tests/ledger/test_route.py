"""Routes: a plan's limits as this worker knows them, and when that has to be looked up anew."""

from dataclasses import replace
from uuid import UUID

from meterproxy.core.hold import Rest
from meterproxy.core.lending import LeaseKey
from meterproxy.core.limit import Measure
from meterproxy.core.path import Source
from meterproxy.core.plan import Plan, plan_for
from meterproxy.core.window import ENDLESS
from meterproxy.ledger.book import Book
from meterproxy.ledger.route import Route
from meterproxy.ledger.view import View
from tests.ledger.test_rates import ACCOUNT, CREDIT, NOW, key, limit

SESSION = UUID(int=6)
OWNER = object()


def plan_of(*measures: Measure) -> Plan:
    limits = [limit(10 + number, 60, measure=measure) for number, measure in enumerate(measures)]
    return plan_for(key(*limits), "chat", "gpt-5", NOW)


def heard(rest: int) -> View:
    return View(None, ENDLESS, rest=rest, heard=True)


def test_a_route_is_whole_once_all_of_it_was_heard_of_and_lent() -> None:
    """Until then what is known changes what it leads to."""
    plan, book = plan_of(Measure.TOKENS), Book()
    tokens, credit = plan.keys
    views = {credit: heard(900), tokens: View(None, ENDLESS)}
    assert not Route(plan, OWNER, SESSION, views, book.leases).whole
    views[tokens] = heard(50)
    book.grant(credit, 100)
    assert not Route(plan, OWNER, SESSION, views, book.leases).whole
    book.grant(tokens, 5)
    route = Route(plan, OWNER, SESSION, views, book.leases)
    assert route.whole
    assert [(step.key, step.lease) for step in route.steps] == [(name, book.leases[name]) for name in (tokens, credit)]


def test_what_is_left_is_what_is_free_here_and_lent_to_nobody() -> None:
    """The least of each measure; nothing is told as long as one of them was never heard of."""
    plan, book = plan_of(Measure.AMOUNT, Measure.TOKENS, Measure.REQUESTS), Book()
    requests, tokens, amount, credit = plan.keys
    views = {amount: heard(700), credit: heard(900)}
    assert Route(plan, OWNER, SESSION, views, book.leases).rest() is None
    views[tokens] = heard(50)
    book.grant(amount, 300)
    book.grant(tokens, 5)
    route = Route(plan, OWNER, SESSION, views, book.leases)
    assert requests not in views, "requests need not be known for this"
    assert route.rest() == Rest(900, 55)
    book.leases[amount].free -= 200
    assert route.rest() == Rest(800, 55)
    views[credit].rest = -5
    assert route.rest() == Rest(-5, 55)
    assert Route(plan_of(), OWNER, SESSION, {LeaseKey(ACCOUNT, CREDIT, 0): heard(7)}, {}).rest() == Rest(7, None)


def test_records_name_what_is_counted_before_what_is_lent_and_credit_last() -> None:
    """So that whoever reads them finds the money at the end."""
    soft = replace(limit(10, 60, measure=Measure.AMOUNT), hard=False)
    plan = plan_for(key(soft, limit(11, 60)), "chat", "gpt-5", NOW)
    route = Route(plan, OWNER, SESSION, {}, {})
    start_us = plan.leased[0].key.window_start_us
    assert route.path.sources == (
        Source(UUID(int=10), start_us, SESSION, Measure.AMOUNT, counted=True),
        Source(UUID(int=11), start_us, SESSION, Measure.REQUESTS),
        Source(CREDIT, 0, SESSION, Measure.AMOUNT),
    )
