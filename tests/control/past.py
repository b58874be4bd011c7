"""An organization with something behind it that is read."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from uuid import UUID

from meterproxy.core.record import EndRecord
from meterproxy.core.role import Role
from tests.control.asking import ADMIN_TOKEN, Asking, Person
from tests.control.history import history
from tests.ledger.bank import pool_of


class Past:
    """An organization with a month behind it: its owner and a member, a key of each, and what was booked."""

    asking: Asking
    owner: Person
    member: Person
    keys: list[UUID]
    secrets: list[str]
    records: list[EndRecord]

    async def get(self, path: str, token: str | None = None) -> Any:
        heard = await self.asking("GET", path, token=token or self.owner.token)
        assert heard.status == 200, (path, heard)
        return heard.body


P = TypeVar("P", bound=Past)


@asynccontextmanager
async def past_of(database: str, past: P) -> AsyncIterator[P]:
    """Fill in a month of usage by an owner and a member, each with a key."""
    async with pool_of(database) as pool:
        past.asking = Asking(pool)
        past.owner, past.member = await past.asking.person("owner"), await past.asking.person("member")
        await past.asking.joins(past.member, past.owner.organization_id, Role.MEMBER)
        about = f"?organization_id={past.owner.organization_id}"
        made = [
            await past.asking("POST", "/api/keys", {"name": "=SUM(A1)"}, token=past.owner.token),
            await past.asking("POST", f"/api/keys{about}", {"name": 'a "key", of mine'}, token=past.member.token),
        ]
        past.keys, past.secrets = [UUID(one.body["id"]) for one in made], [one.body["key"] for one in made]
        path = f"/admin/accounts/{past.owner.account_id}/credits"
        await past.asking("POST", path, {"amount": "50.00", "kind": "grant"}, token=ADMIN_TOKEN)
        past.records = await history(pool, past.keys)
        yield past


def amount(records: list[EndRecord]) -> int:
    return sum(record.amount_nanos for record in records)
