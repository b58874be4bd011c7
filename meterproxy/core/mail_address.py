"""Addresses of mail: which of those that people give a letter can go to.

Rules
-----
- Such an address is what it says, sign by sign: nothing in it is quoted, encoded or a comment, so that whoever reads
  it (this program, a mail library, the mail server) finds the same recipient, and one only.
- It belongs to somebody. `localhost` is each mail server's own, whoever has the name before it there; the operator whom
  the first start makes is called so.

Source: RFC 5321 (dot-string), RFC 6761 (special names).
"""

import re
from typing import Final, NamedTuple
from unicodedata import is_normalized

_ATOM: Final = r"[A-Za-z0-9!#$%&'*+/=^_`{|}~-]+"
_LABEL: Final = r"[^\x00-,./:-@\[-^`{-\x7f\s]+"
_ADDRESS: Final = re.compile(rf"({_ATOM}(?:\.{_ATOM})*)@({_LABEL}(?:\.{_LABEL})*)")
_NOBODYS: Final = frozenset({"localhost", "invalid"})
LONGEST: Final = 254


class Mailbox(NamedTuple):
    """Whose, and where."""

    name: str
    domain: str


def read_address(address: str) -> Mailbox | None:
    """The parts of what everybody reads as this address; None of what is none, or could be read otherwise."""
    found = _ADDRESS.fullmatch(address) if len(address) <= LONGEST and address.isprintable() else None
    return Mailbox(*found.groups()) if found is not None and is_normalized("NFKC", address) else None


def mailbox(address: str) -> Mailbox | None:
    """Where letters to this address go; None where none should."""
    read = read_address(address)
    return None if read is None or read.domain.lower().rpartition(".")[2] in _NOBODYS else read
