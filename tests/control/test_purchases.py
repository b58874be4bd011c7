"""Purchases by the API: who may order, what is told, who confirms, and what the books say then."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from meterproxy.core.role import Role
from meterproxy.errors import Case
from tests.control.asking import ADMIN_TOKEN, TERMS, Asking, Person
from tests.ledger.bank import pool_of


@pytest.fixture
async def asking(database: str) -> AsyncIterator[Asking]:
    async with pool_of(database) as pool:
        yield Asking(pool)


async def ordered(asking: Asking, buyer: Person, **body: Any) -> Any:
    heard = await asking("POST", "/api/credits/purchase", {"amount": "20.00", **body}, token=buyer.token)
    assert heard.status == 201, heard
    return heard.body


async def test_from_an_order_to_the_balance(asking: Asking) -> None:
    """The order says how to pay and moves nothing; what is confirmed is in the ledger, and the order says where."""
    buyer = await asking.person("buyer")
    order = await ordered(asking, buyer, reference="PO 4711", idempotency_key="k")
    assert await ordered(asking, buyer, reference="PO 4711", idempotency_key="k") == order
    assert (order["state"], order["method"], order["ordered_by"]) == ("pending", "transfer", "buyer")
    assert (order["instructions"], order["amount_nanos"]) == (TERMS.instructions, 20_000_000_000)
    balance = await asking("GET", "/api/credits/balance", token=buyer.token)
    assert balance.body["balance"] == "0.00"

    waiting = await asking("GET", f"/api/admin/purchases?state=pending&code={order['code']}", token=ADMIN_TOKEN)
    (seen,) = waiting.body["data"]
    assert seen["organization"] == {"id": str(buyer.organization_id), "name": "buyer"}
    path = f"/api/admin/purchases/{order['id']}/confirm"
    for _ in range(2):
        heard = await asking("POST", path, {"amount": "19.50"}, token=ADMIN_TOKEN)
        assert (heard.status, heard.body["state"], heard.body["booked"]) == (200, "confirmed", "19.50")
    assert (await asking("POST", path, {"amount": "20.00"}, token=ADMIN_TOKEN)).case is Case.CONFLICT

    (listed,) = (await asking("GET", "/api/credits/purchases", token=buyer.token)).body["data"]
    assert (listed["entry_no"], listed["instructions"], "organization" in listed) == (1, None, False)
    (entry,) = (await asking("GET", "/api/credits/transactions", token=buyer.token)).body["data"]
    assert (entry["kind"], entry["amount"], entry["description"]) == (
        "purchase", "19.50", f"Purchase {order['code']}: PO 4711",
    )  # fmt: skip
    done = await asking("GET", f"/api/audit?subject_id={order['id']}", token=ADMIN_TOKEN)
    assert [(one["action"], one["actor"]) for one in done.body["data"]] == [
        ("purchase.confirm", "operator"), ("purchase.order", f"user {buyer.id}"),
    ]  # fmt: skip


async def test_an_order_is_taken_back_or_declined(asking: Asking) -> None:
    """By those who pay while it is pending, by operators with a reason; after that nobody confirms it."""
    buyer = await asking.person("buyer")
    first, second = [await ordered(asking, buyer) for _ in range(2)]
    heard = await asking("POST", f"/api/credits/purchases/{first['id']}/cancel", token=buyer.token)
    assert (heard.body["state"], heard.body["booked"]) == ("cancelled", None)
    reason = {"reason": "nothing came"}
    heard = await asking("POST", f"/api/admin/purchases/{second['id']}/decline", reason, token=ADMIN_TOKEN)
    assert (heard.body["state"], heard.body["reason"]) == ("declined", "nothing came")
    for order in (first, second):
        heard = await asking("POST", f"/api/admin/purchases/{order['id']}/confirm", {}, token=ADMIN_TOKEN)
        assert heard.case is Case.CONFLICT
    page = await asking("GET", "/api/credits/purchases?limit=1", token=buyer.token)
    assert [one["id"] for one in page.body["data"]] == [second["id"]]
    rest = await asking("GET", f"/api/credits/purchases?cursor={page.body['next_cursor']}", token=buyer.token)
    assert [one["id"] for one in rest.body["data"]] == [first["id"]]


async def test_orders_of_others_do_not_exist(asking: Asking) -> None:
    """Neither to read nor to cancel; colleagues who do not pay are refused, those who do are not."""
    owner, stranger, payer = [await asking.person(name) for name in ("owner", "stranger", "payer")]
    await asking.joins(payer, owner.organization_id, Role.BILLING)
    order = await ordered(asking, owner)
    path = f"/api/credits/purchases/{order['id']}/cancel"
    assert (await asking("POST", path, token=stranger.token)).case is Case.NOT_FOUND
    assert (await asking("GET", "/api/credits/purchases", token=stranger.token)).body["data"] == []
    own = await asking("POST", f"{path}?organization_id={owner.organization_id}", token=payer.token)
    assert own.body["state"] == "cancelled"
    heard = await asking("POST", f"/api/admin/purchases/{uuid4()}/decline", {}, token=ADMIN_TOKEN)
    assert heard.case is Case.NOT_FOUND


async def test_what_cannot_be_ordered(asking: Asking) -> None:
    """Amounts out of bounds, what is no amount, and ways to pay that there are not."""
    buyer = await asking.person("buyer")
    bodies: list[dict[str, Any]] = [{"amount": amount} for amount in ("4.99", "10000.01", "-20", 20)]
    bodies += [{"amount": "20", **more} for more in ({"reference": "x" * 101}, {"reference": "\0"}, {"method": "card"})]
    for body in (*bodies, {}):
        heard = await asking("POST", "/api/credits/purchase", body, token=buyer.token)
        assert heard.case is Case.MALFORMED, body
