"""`migrate`: bring the database to this release's schema."""

import asyncio

import click

from meterproxy.cli.invocation import Invocation, invoked


@click.command()
@invoked
def command(invocation: Invocation) -> None:
    """Bring the database to this release's schema; safe to run at any time and from many hosts at once."""
    from meterproxy.cli.session import database
    from meterproxy.store.migrate import migrate

    config = invocation.load()

    async def migrated() -> list[str]:
        async with database(config) as dsn:
            return await migrate(dsn)

    applied = asyncio.run(migrated())
    if invocation.as_json:
        invocation.show({"applied": applied})
    else:
        print("\n".join(f"applied {name}" for name in applied) or "the schema is up to date")
