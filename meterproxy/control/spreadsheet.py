"""Spreadsheets: answers as CSV files (RFC 4180); what a spreadsheet would run as a formula is shown as text."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Final

from pydantic import BaseModel

_FORMULA: Final = re.compile(r"\s*[-=+@＝＋－＠]|[\t\r\n]")


def as_csv(columns: Sequence[str], rows: Iterable[BaseModel]) -> str:
    """These members of each row, a line for each."""
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(getattr(row, name)) for name in columns])
    return file.getvalue()


def _cell(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value
