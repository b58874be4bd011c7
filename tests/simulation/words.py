"""Words for a trace: the ledger's values as short as a person can still tell them apart."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from meterproxy.core.lending import Batch, LeaseKey, Noted, Settling


def short(value: Any) -> str:
    """A value in a few characters."""
    if isinstance(value, UUID):
        return f"{value.int & 0xFFFFFF:x}"
    if isinstance(value, LeaseKey):
        number = value.limit_id.int & 0xFFFF
        if number < 1000:
            return f"credit{number - 201}"
        minute = "" if value.window_start_us == 0 else f"@{value.window_start_us // 60_000_000 % 60}"
        return f"limit{(number - 1000) // 10}.{number % 10}{minute}"
    if isinstance(value, Batch):
        items = ",".join(_item(item) for item in (*value.notes, *value.endings))
        return f"{value.start}-{value.end} from {value.open_from}: {items}"
    if isinstance(value, tuple | list):
        name = "" if type(value) in {tuple, list} else type(value).__name__
        return f"{name}({' '.join(map(short, value))})"
    if isinstance(value, Mapping):
        return "{" + " ".join(f"{short(key)}:{short(entry)}" for key, entry in value.items()) + "}"
    return str(value) if not isinstance(value, BaseException) else repr(value)


def _item(item: Settling | Noted) -> str:
    record = item.record
    if isinstance(item, Settling):
        return f"{record.how} {short(item.record.subject.request_id)}={item.record.amount_nanos}"  # type: ignore[union-attr]
    return type(record).__name__
