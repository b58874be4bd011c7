"""`audit`: recompute every invariant of the books."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from meterproxy.cli.invocation import Invocation, invoked, note

if TYPE_CHECKING:
    from meterproxy.cli.session import Session
    from meterproxy.store.audit import InvariantResult
    from meterproxy.store.lost import Lost
    from meterproxy.store.retention import Keeping


@click.command()
@invoked
def command(invocation: Invocation) -> int:
    """Recompute every invariant in one snapshot, right under traffic; exit 1 if one fails."""
    from meterproxy.core.money import dollars

    results, lost, keeping = invocation.with_session(_look)
    invocation.show_all(results, ("name", "ok", "detail"))
    failed = [result.name for result in results if not result.ok]
    if failed:
        note(f"meterproxy: {len(failed)} of {len(results)} invariants failed: {', '.join(failed)}")
    if lost.sessions:
        note(f"meterproxy: {lost.sessions} lost sessions keep {dollars(lost.nanos)}: see `journal list --lost`")
    for cause in keeping:
        note(f"meterproxy: old usage from {cause.since:%Y-%m-%d} on is kept for {cause.reason}: {cause.things}")
    return 1 if failed else 0


async def _look(session: "Session") -> "tuple[Sequence[InvariantResult], Lost, Sequence[Keeping]]":
    from meterproxy.store.audit import audit
    from meterproxy.store.lost import LostSessions
    from meterproxy.store.retention import kept_by

    days = session.config.usage.retention_days
    keeping = () if days is None else await kept_by(session.pool, days)
    return await audit(session.pool), await LostSessions(session.pool).total(), keeping
