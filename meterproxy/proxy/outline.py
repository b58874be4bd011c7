"""The outline: what a JSON value is without its strings, found without building anything of it.

Rules
-----
- The value must be valid JSON, as what `body.scan` has found is. So in its outline each bracket, brace and comma is
  structure, and counting them tells how many values there are.
- Bytes are only counted, replaced and split, all in C: 60 MiB take as long as a few passes over memory. Objects are
  made for strings alone, and only up to a maximum.
"""

from typing import NamedTuple


class Outline(NamedTuple):
    """How many strings a value has (names too), and its bytes between them; none where the strings are too many."""

    strings: int
    outside: bytes = b""


class Counts(NamedTuple):
    """How many values of each sort begin in a text, and its separators; where the strings are too many, only those."""

    strings: int
    commas: int = 0
    lists: int = 0
    objects: int = 0


def counts(raw: bytes, most_strings: int) -> Counts:
    """Count what a value holds, if its strings are not more than so many."""
    strings, outside = outline(raw, most_strings)
    if strings > most_strings:
        return Counts(strings)
    return counts_of(strings, outside)


def counts_of(strings: int, outside: bytes) -> Counts:
    """The counts of an outline."""
    return Counts(strings, outside.count(b","), outside.count(b"["), outside.count(b"{"))


def outline(raw: bytes, most_strings: int) -> Outline:
    """Take the strings out of a value, if they are not more than so many."""
    plain = raw
    if b"\\" in raw:
        plain = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    strings = plain.count(b'"') // 2
    if strings > most_strings:
        return Outline(strings)
    return Outline(strings, b"".join(plain.split(b'"')[::2]) if strings else plain)
