"""Output: rows as people read them, or as JSON with exact integers and readable amounts beside them."""

import dataclasses
import sys
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import msgspec
import orjson

from meterproxy.core.money import format_usd
from meterproxy.core.path import Draws

_NANOS = "_nanos"


def plain(value: object) -> Any:
    """Turn a row into JSON-able values; each `…_nanos` member gets its amount as a decimal beside it."""
    if isinstance(value, Mapping):
        return _with_amounts({str(key): plain(member) for key, member in value.items()})
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, list | tuple | set | frozenset | Draws):
        return [plain(member) for member in value]
    if isinstance(value, msgspec.Struct):
        return plain({name: getattr(value, name) for name in value.__struct_fields__})
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return value if value is None or isinstance(value, bool | int | float | str | datetime) else str(value)


def _with_amounts(members: dict[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for name, value in members.items():
        if name.endswith(_NANOS) and isinstance(value, int):
            shown.setdefault(name.removesuffix(_NANOS), format_usd(value))
        shown[name] = value
    return shown


def print_json(value: object) -> None:
    """Print one JSON value."""
    print(orjson.dumps(plain(value), option=orjson.OPT_INDENT_2).decode(), flush=True)


def print_record(row: object) -> None:
    """Print the members of one thing, a line each; nested ones indented."""
    _print_members(plain(row), "")


def _print_members(members: Mapping[str, Any], indent: str) -> None:
    shown = {name: value for name, value in members.items() if not name.endswith(_NANOS)}
    width = max((len(name) for name in shown), default=0)
    for name, value in shown.items():
        if isinstance(value, dict) and value:
            print(f"{indent}{name}")
            _print_members(value, f"{indent}  ")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            print(f"{indent}{name}")
            for member in value:
                _print_members(member, f"{indent}  ")
                print()
        else:
            print(f"{indent}{name:<{width}}  {cell(value)}".rstrip())


def cell(value: object) -> str:
    """One value as text for people."""
    if value is None or value == {}:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    if isinstance(value, list):
        return ", ".join(cell(member) for member in value) or "-"
    return str(value)


def print_table(rows: Iterable[object], columns: tuple[str, ...]) -> None:
    """Print rows under headings; on a pipe without colours or folding, so that other tools can read it."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.replace("_", " "), no_wrap=True)
    for row in rows:
        members = plain(row)
        table.add_row(*(cell(members.get(column)) for column in columns))
    console = Console(markup=False, highlight=False, soft_wrap=not sys.stdout.isatty())
    if not sys.stdout.isatty():
        console.width = 1000
    console.print(table)
