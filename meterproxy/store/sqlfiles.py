"""SQL files: all of the project's SQL lives under `sql/` and is read from here.

A query file holds queries that each begin with a line `-- name: settle_batch` followed by comment lines that say why.
"""

import re
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

_NAME: Final = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def sql_root() -> Traversable:
    """The `sql` directory: inside the installed package, or beside it in a checkout."""
    packaged = resources.files("meterproxy") / "sql"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "sql"


@cache
def queries(noun: str) -> dict[str, str]:
    """The named queries of `sql/queries/<noun>.sql`."""
    text = (sql_root() / "queries" / f"{noun}.sql").read_text()
    _, *parts = _NAME.split(text)
    return {name: body.strip() for name, body in zip(parts[::2], parts[1::2], strict=True)}


def migrations() -> list[tuple[int, str, str]]:
    """Every migration as (number, name, SQL), in order."""
    files = sorted((sql_root() / "migrations").iterdir(), key=lambda file: file.name)
    return [
        (int(file.name[:4]), file.name.removesuffix(".sql"), file.read_text())
        for file in files
        if file.name.endswith(".sql")
    ]
