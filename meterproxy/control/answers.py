"""Answers: rows of the store as the JSON that the operator's API promises."""

from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from aiohttp import web

from meterproxy.core.money import format_usd
from meterproxy.store.accounts import AccountRow, EntryRow
from meterproxy.store.keys import KeyRow, NewKey
from meterproxy.store.teams import TeamRow


def json_answer(content: Any, status: int = 200) -> web.Response:
    """A JSON answer; ids and instants are written as text."""
    return web.Response(
        status=status, body=orjson.dumps(content, default=_text), headers={"Content-Type": "application/json"}
    )


def account(row: AccountRow) -> dict[str, Any]:
    """An account with its balance, in text and in nanodollars."""
    return {
        "id": row.id,
        "organization": {"id": row.organization_id, "name": row.organization},
        "balance": format_usd(row.balance_nanos),
        "balance_nanos": row.balance_nanos,
        "leased_nanos": row.leased_nanos,
        "held_nanos": row.held_nanos,
        "available_nanos": row.available_nanos,
        "overdraft_nanos": row.overdraft_nanos,
        "frozen_at": row.frozen_at,
        "created_at": row.created_at,
        "as_of": row.as_of,
    }


def entry(row: EntryRow) -> dict[str, Any]:
    """A ledger entry."""
    return {
        "account_id": row.account_id,
        "entry_no": row.entry_no,
        "kind": row.kind,
        "amount": format_usd(row.amount_nanos),
        "amount_nanos": row.amount_nanos,
        "balance_after": format_usd(row.balance_after_nanos),
        "balance_after_nanos": row.balance_after_nanos,
        "request_id": row.request_id,
        "description": row.description,
        "idempotency_key": row.idempotency_key,
        "created_at": row.created_at,
    }


def key(row: KeyRow) -> dict[str, Any]:
    """A key without its secret."""
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
        "expires_at": row.expires_at,
        "revoked_at": row.revoked_at,
        "created_at": row.created_at,
    }


def new_key(new: NewKey) -> dict[str, Any]:
    """A key with its secret, this once."""
    return {"key": new.secret, **key(new.row)}


def team(row: TeamRow) -> dict[str, Any]:
    """A team."""
    return {"id": row.id, "organization_id": row.organization_id, "name": row.name, "created_at": row.created_at}


def page(rows: list[dict[str, Any]], limit: int, cursor: str) -> dict[str, Any]:
    """One page of a list that was asked for one row more; `cursor` names the member by which the next page goes on."""
    more = len(rows) > limit
    return {"data": rows[:limit], "next_cursor": str(rows[limit - 1][cursor]) if more else None}


def _text(value: Any) -> str:
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(type(value).__name__)
