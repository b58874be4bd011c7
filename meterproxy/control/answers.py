"""Answers: what the API promises, one model per thing, each made from a row of the store.

What is rendered is what these models say, and so is the OpenAPI document.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import datetime
from typing import Annotated, Any, Final, Generic, Literal, Self, TypeVar
from uuid import UUID

import orjson
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from meterproxy.core.money import format_usd
from meterproxy.store.accounts import AccountRow, EntryRow
from meterproxy.store.keys import KeyRow, NewKey
from meterproxy.store.teams import TeamRow

Nanos = Annotated[int, Field(description="nanodollars (1e-9 USD)")]
Usd = Annotated[str, Field(description="USD, decimal", examples=["5.00"])]
MOST_NANOS: Final = 2**63 - 1

T = TypeVar("T")
Row = TypeVar("Row")
Made = TypeVar("Made")


class Answer(BaseModel):
    """What all answers have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Page(Answer, Generic[T]):
    """One page of a list; `next_cursor` is the cursor of the next page, null on the last one."""

    data: list[T]
    next_cursor: str | None

    @classmethod
    def of(cls, rows: list[T], limit: int, cursor: str = "id") -> Self:
        """A page of a list that was asked for one row more; `cursor` names the member by which the next one goes on."""
        more = len(rows) > limit
        return cls(data=rows[:limit], next_cursor=str(getattr(rows[limit - 1], cursor)) if more else None)


class OrganizationName(Answer):
    id: UUID
    name: str


class Account(Answer):
    """An account with its balance, in text and in nanodollars."""

    id: UUID
    organization: OrganizationName
    balance: Usd
    balance_nanos: Nanos
    leased_nanos: Nanos
    held_nanos: Nanos
    available_nanos: Nanos
    overdraft_nanos: Nanos
    frozen_at: datetime | None
    created_at: datetime
    as_of: datetime

    @classmethod
    def of(cls, row: AccountRow) -> Self:
        return cls(
            id=row.id,
            organization=OrganizationName(id=row.organization_id, name=row.organization),
            balance=format_usd(row.balance_nanos),
            balance_nanos=row.balance_nanos,
            leased_nanos=row.leased_nanos,
            held_nanos=row.held_nanos,
            available_nanos=row.available_nanos,
            overdraft_nanos=row.overdraft_nanos,
            frozen_at=row.frozen_at,
            created_at=row.created_at,
            as_of=row.as_of,
        )


class Entry(Answer):
    """A ledger entry."""

    account_id: UUID
    entry_no: int
    kind: str
    amount: Usd
    amount_nanos: Nanos
    balance_after: Usd
    balance_after_nanos: Nanos
    request_id: UUID | None
    description: str
    idempotency_key: str | None
    created_at: datetime

    @classmethod
    def of(cls, row: EntryRow) -> Self:
        return cls(
            account_id=row.account_id,
            entry_no=row.entry_no,
            kind=row.kind,
            amount=format_usd(row.amount_nanos),
            amount_nanos=row.amount_nanos,
            balance_after=format_usd(row.balance_after_nanos),
            balance_after_nanos=row.balance_after_nanos,
            request_id=row.request_id,
            description=row.description,
            idempotency_key=row.idempotency_key,
            created_at=row.created_at,
        )


class Key(Answer):
    """A key without its secret."""

    id: UUID
    prefix: str
    account_id: UUID
    user_id: UUID
    team_id: UUID | None
    origin_id: UUID
    name: str
    description: str
    models: list[str] | None
    operations: list[str] | None
    networks: list[str] | None
    highest_request: Usd | None
    reads_usage: bool
    expires_at: datetime | None
    revoked_at: datetime | None
    created_at: datetime

    @classmethod
    def of(cls, row: KeyRow) -> Self:
        return cls(**_key(row))


class NewlyMadeKey(Key):
    """A key with its secret, this once."""

    key: str

    @classmethod
    def made(cls, new: NewKey) -> Self:
        return cls(key=new.secret, **_key(new.row))


class Team(Answer):
    """A team."""

    id: UUID
    organization_id: UUID
    name: str
    created_at: datetime

    @classmethod
    def of(cls, row: TeamRow) -> Self:
        return cls(id=row.id, organization_id=row.organization_id, name=row.name, created_at=row.created_at)


ANSWERS_A_TURN: Final = 250
"""How many are made between two turns of the loop: some milliseconds."""


async def each(of: Callable[[Row], Made], rows: Iterable[Row]) -> list[Made]:
    """What is made of each row; of many, others have their turn in between."""
    made: list[Made] = []
    for row in rows:
        made.append(of(row))
        if len(made) % ANSWERS_A_TURN == 0:
            await asyncio.sleep(0)
    return made


def money(**nanos: int) -> dict[str, Any]:
    """Amounts as answers have them: each as text in USD, and in nanodollars under its name with `_nanos`."""
    told: dict[str, Any] = {}
    for name, amount in nanos.items():
        told[name], told[f"{name}_nanos"] = format_usd(amount), amount
    return told


def json_answer(content: BaseModel | dict[str, Any], status: int = 200) -> web.Response:
    """A JSON answer; ids and instants are written as text."""
    told = content.model_dump(exclude_unset=True) if isinstance(content, BaseModel) else content
    return web.Response(
        status=status, body=orjson.dumps(told, default=_text), headers={"Content-Type": "application/json"}
    )


async def file(
    request: web.BaseRequest, pieces: AsyncIterator[bytes], name: str, format_: Literal["csv", "json"]
) -> web.StreamResponse:
    """A file that is sent while it is being read: neither side ever has all of it."""
    first = await anext(pieces) + await anext(pieces, b"")  # what fails here can still be told
    response = web.StreamResponse(
        headers={
            "Content-Type": "text/csv; charset=utf-8" if format_ == "csv" else "application/json",
            "Content-Disposition": f'attachment; filename="{name}.{format_}"',
            "Cache-Control": "no-store",
        }
    )
    await response.prepare(request)
    await response.write(first)
    async for piece in pieces:
        await response.write(piece)
    return response


def _text(value: Any) -> str:
    """Ids as asyncpg makes them are a class of their own."""
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(type(value).__name__)


def _key(row: KeyRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "prefix": row.prefix,
        "account_id": row.account_id,
        "user_id": row.user_id,
        "team_id": row.team_id,
        "origin_id": row.origin_id,
        "name": row.name,
        "description": row.description,
        "models": row.models,
        "operations": row.operations,
        "networks": [str(network) for network in row.networks] if row.networks is not None else None,
        "highest_request": format_usd(row.highest_request_nanos) if row.highest_request_nanos is not None else None,
        "reads_usage": row.reads_usage,
        "expires_at": row.expires_at,
        "revoked_at": row.revoked_at,
        "created_at": row.created_at,
    }
