"""Spreadsheets: answers as CSV files (RFC 4180); what a spreadsheet would run as a formula is shown as text."""

import asyncio
import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Final

from pydantic import BaseModel

LINES_A_TURN: Final = 250
_FORMULA: Final = re.compile(r"\s*[-=+@＝＋－＠]|[\t\r\n]")


async def as_csv(columns: Sequence[str], rows: Iterable[BaseModel]) -> str:
    """These members of each row, a line for each; of many, others have their turn in between."""
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(columns)
    for number, row in enumerate(rows, 1):
        writer.writerow([_cell(getattr(row, name)) for name in columns])
        if number % LINES_A_TURN == 0:
            await asyncio.sleep(0)
    return file.getvalue()


def _cell(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value
