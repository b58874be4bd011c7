"""The demo: what the first start on a fresh machine makes, so that the first request can be pasted.

An organization "demo" with five dollars and one key, whose secret is kept in `data_dir/demo.key`.
"""

import os
from pathlib import Path
from typing import Final

from meterproxy.core.money import NANOS_PER_USD
from meterproxy.store.accounts import Accounts
from meterproxy.store.keys import Keys
from meterproxy.store.pool import Pool

ORGANIZATION: Final = "demo"
CREDIT_NANOS: Final = 5 * NANOS_PER_USD


def key_path(data_dir: Path) -> Path:
    """Where the demo's key is kept."""
    return data_dir / "demo.key"


async def ensure_demo(pool: Pool, data_dir: Path) -> None:
    """Make the demo where the database has no organization yet; a start that was killed half-way is made up for.

    The grant carries an idempotency key, so five dollars are granted once whatever happens in between.
    """
    path = key_path(data_dir)
    if path.exists():
        return
    accounts = Accounts(pool, "demo")
    account_id = await accounts.find(ORGANIZATION)
    if account_id is None:
        if await accounts.list(limit=1):
            return
        account_id = (await accounts.create(ORGANIZATION)).id
    await accounts.credit(account_id, CREDIT_NANOS, "grant", "to try things out", "demo")
    new = await Keys(pool, "demo").create(account_id, "demo")
    draft = path.with_suffix(".new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(new.secret + "\n")
    draft.rename(path)
