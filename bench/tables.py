"""Tables: rows of figures as text for a terminal or as Markdown, there also between the marks of a README."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from bench.measures import Row

_BEGIN: Final = "<!-- bench:begin -->\n"
_END: Final = "<!-- bench:end -->"


def has_marks(readme: Path) -> bool:
    """Whether a file has the two marks that figures go between, each once and in order."""
    text = readme.read_text() if readme.is_file() else ""
    return text.count(_BEGIN) == text.count(_END) == 1 and text.index(_BEGIN) < text.index(_END)


def fill(readme: Path, parts: Sequence[str]) -> None:
    """Replace what is between the marks."""
    before, _, rest = readme.read_text().partition(_BEGIN)
    after = rest.partition(_END)[2]
    shown = "\n\n".join(part.strip() for part in parts)
    readme.write_text(f"{before}{_BEGIN}{shown}\n{_END}{after}")


def table(title: str, rows: Mapping[str, Row], *, markdown: bool) -> str:
    """One table: a line for each target, a column for each figure any of them has."""
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    lines = [["target", *columns]]
    lines += [[target, *(_cell(row.get(name)) for name in columns)] for target, row in rows.items()]
    return f"\n{'### ' if markdown else ''}{title}\n{_markdown(lines) if markdown else _plain(lines)}"


def _cell(value: float | str | None) -> str:
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    if value != value:  # not a number: nothing was measured
        return "–"
    digits = 0 if abs(value) >= 100 or value == int(value) else 2 if abs(value) >= 0.1 else 4
    return f"{value:,.{digits}f}".replace(",", " ")


def _plain(lines: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) if at == 0 else cell.rjust(width) for at, (cell, width) in enumerate(zipped))
        for zipped in (list(zip(line, widths, strict=True)) for line in lines)
    )


def _markdown(lines: list[list[str]]) -> str:
    rule = ["---", *["---:"] * (len(lines[0]) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))


def ratios(rows: Mapping[str, Row], yardstick: str, figures: tuple[str, ...]) -> dict[str, Row]:
    """Each target's figures as multiples of the yardstick's."""
    base = rows.get(yardstick, {})
    made: dict[str, Row] = {}
    for target, row in rows.items():
        found: Row = {}
        for name in figures:
            value, unit = row.get(name), base.get(name)
            if isinstance(value, float | int) and isinstance(unit, float | int) and unit:
                found[f"{name} × {yardstick}"] = value / unit
        made[target] = {**row, **found}
    return made


def differences(rows: Mapping[str, Row], base: str, figures: tuple[str, ...]) -> dict[str, Row]:
    """What each target adds to the base."""
    made: dict[str, Row] = {}
    for target, row in rows.items():
        found: Row = {}
        for name in figures:
            value, zero = row.get(name), rows.get(base, {}).get(name)
            if target != base and isinstance(value, float) and isinstance(zero, float):
                found[f"added {name}"] = value - zero
        made[target] = {**row, **found}
    return made
