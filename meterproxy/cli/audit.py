"""`audit`: recompute every invariant of the books."""

import click

from meterproxy.cli.invocation import Invocation, invoked, note


@click.command()
@invoked
def command(invocation: Invocation) -> int:
    """Recompute every invariant in one snapshot, right under traffic; exit 1 if one fails."""
    from meterproxy.store.audit import audit

    results = invocation.with_session(lambda session: audit(session.pool))
    invocation.show_all(results, ("name", "ok", "detail"))
    failed = [result.name for result in results if not result.ok]
    if failed:
        note(f"meterproxy: {len(failed)} of {len(results)} invariants failed: {', '.join(failed)}")
    return 1 if failed else 0
