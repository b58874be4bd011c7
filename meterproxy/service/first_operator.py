"""The first operator: somebody who may do everything, made where a database has nobody like that yet.

The password is written to a file before the user is made, so that a start which is killed in between loses nothing.
"""

import os
import secrets
from pathlib import Path
from typing import Final, NamedTuple

from meterproxy.control.passwords import Passwords
from meterproxy.store.accounts import Accounts
from meterproxy.store.people import People
from meterproxy.store.pool import Pool

EMAIL: Final = "operator@localhost"
ORGANIZATION: Final = "operators"
"""Where there is no organization yet that he could belong to."""


class FirstOperator(NamedTuple):
    """Who can sign in now, and where that is kept."""

    email: str
    password: str
    kept_in: Path


async def ensure_operator(pool: Pool, data_dir: Path) -> FirstOperator | None:
    """Make the first operator, who owns the first organization; None where there is an operator already."""
    people = People(pool, Accounts(pool, "first start"))
    if await people.has_operator():
        return None
    path = data_dir / "secrets" / "operator_password"
    password = _kept(path)
    await people.make_operator("operator", EMAIL, await Passwords().hash(password), ORGANIZATION)
    return FirstOperator(EMAIL, password, path)


def _kept(path: Path) -> str:
    if path.exists():
        return path.read_text(encoding="ascii").strip()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        password = secrets.token_urlsafe(18)
        file.write(password + "\n")
    draft.rename(path)
    return password
