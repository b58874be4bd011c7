"""Purchases by commands, as an operator who reads a bank statement types them."""

import asyncio
from uuid import UUID

from meterproxy.core.purchase import PurchaseTerms
from meterproxy.store.purchases import PurchaseRow, Purchases
from tests.cli.conftest import Command
from tests.ledger.bank import pool_of


def ordered(database: str, account_id: str) -> PurchaseRow:
    async def order() -> PurchaseRow:
        async with pool_of(database) as pool:
            return await Purchases(pool, PurchaseTerms()).order(UUID(account_id), 20_000_000_000, "PO 4711")

    return asyncio.run(order())


def test_what_arrived_is_confirmed_and_the_rest_declined(on_database: Command, database: str) -> None:
    """Found by the code on the transfer; booked once; what ended otherwise is told in one line."""
    account = on_database("account", "create", "--name", "Acme", "--json").json["id"]
    paid, unpaid = ordered(database, account), ordered(database, account)
    (found,) = on_database("purchase", "list", "--code", paid.code.lower(), "--json").json
    assert (found["id"], found["amount"], found["organization"]) == (str(paid.id), "20.00", "Acme")
    words = ("purchase", "confirm", str(paid.id), "--amount", "19.50", "--json")
    assert on_database(*words).json == on_database(*words).json
    assert on_database("credit", "balance", "--account", account, "--json").json["balance"] == "19.50"
    declined = on_database("purchase", "decline", str(unpaid.id), "--reason", "nothing came", "--json").json
    assert (declined["state"], declined["reason"]) == ("declined", "nothing came")
    refused = on_database("purchase", "confirm", str(unpaid.id))
    assert (refused.status, refused.err) == (1, f"meterproxy: The purchase {unpaid.code} is declined already.\n")
    table = on_database("purchase", "list", "--state", "confirmed").out.splitlines()
    assert (len(table), paid.code in table[1]) == (2, True)
