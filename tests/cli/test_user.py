"""Users by commands: made with a link to set a password, suspended, and let in again."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

from meterproxy.errors import ApiError, Case
from meterproxy.store.accounts import Accounts
from meterproxy.store.identities import Identities, Introduced
from tests.cli.conftest import Command
from tests.control.asking import PASSWORD, Asking, Heard
from tests.ledger.bank import pool_of


def asked(dsn: str, path: str, body: Any) -> Heard:
    """What the API says to somebody, on the database that the commands use."""

    async def ask() -> Heard:
        async with pool_of(dsn) as pool:
            return await Asking(pool, "closed")("POST", path, body)

    return asyncio.run(ask())


def test_a_user_made_by_a_command_signs_in(on_database: Command, database: str) -> None:
    """The link sets his password once; suspended he is out, resumed he is in again, and the log says who did it."""
    account = on_database("account", "create", "--name", "Acme", "--json").json["id"]
    words = ("user", "create", "--account", account, "--name", "Ada", "--email", "ada@acme.test", "--password-link")
    made = on_database(*words, "--json")
    assert "shown this once" in made.err
    path, _, secret = made.json["password_link"].partition("?token=")
    assert path == "/reset"
    new = {"reset_token": secret, "new_password": PASSWORD}
    assert asked(database, "/api/auth/reset", new).status == 204
    assert asked(database, "/api/auth/reset", new).status == 401
    credentials = {"email": "ada@acme.test", "password": PASSWORD}
    assert asked(database, "/api/auth/login", credentials).status == 200
    assert on_database("user", "suspend", made.json["id"], "--json").json["suspended_at"] is not None
    assert asked(database, "/api/auth/login", credentials).status == 401
    assert on_database("user", "resume", made.json["id"], "--json").json["suspended_at"] is None
    assert asked(database, "/api/auth/login", credentials).status == 200

    async def actors() -> set[str]:
        async with pool_of(database) as pool:
            rows = await pool.fetch("SELECT actor FROM audit_log WHERE action IN ('user.suspend', 'user.reset')")
            return {row["actor"].partition(":")[0] for row in rows}

    assert asyncio.run(actors()) == {"cli"}


def test_what_cannot_be_is_told_in_one_line(on_database: Command) -> None:
    """A link for somebody without an address, and somebody who is not there."""
    account = on_database("account", "create", "--name", "Acme", "--json").json["id"]
    done = on_database("user", "create", "--account", account, "--name", "Ada", "--password-link")
    assert (done.status, "needs --email" in done.err) == (2, True)
    nobody = uuid4()
    done = on_database("user", "suspend", nobody)
    assert (done.status, done.err) == (1, f"meterproxy: There is no user {nobody}.\n")


def test_people_are_listed_and_made_in_a_role(on_database: Command) -> None:
    """Everybody by a part of name or address, or those of one organization with what they are there."""
    account = on_database("account", "create", "--name", "Acme", "--json").json["id"]
    other = on_database("account", "create", "--name", "Other", "--json").json["id"]
    made = {}
    for name, role, place in (("Ada", "owner", account), ("Ben", "viewer", account), ("Cleo", None, other)):
        words = ("--email", f"{name.lower()}@acme.test", *(("--role", role) if role else ()))
        made[name] = on_database("user", "create", "--account", place, "--name", name, *words, "--json").json
    assert {name: one["role"] for name, one in made.items()} == {"Ada": "owner", "Ben": "viewer", "Cleo": "member"}
    everybody = on_database("user", "list", "--json").json
    assert [one["name"] for one in everybody] == ["Ada", "Ben", "Cleo"]
    assert not any(one["is_operator"] for one in everybody)
    assert [one["id"] for one in on_database("user", "list", "--search", "BEN@", "--json").json] == [made["Ben"]["id"]]
    assert [
        one["name"] for one in on_database("user", "list", "--after", made["Ada"]["id"], "--limit", 1, "--json").json
    ] == ["Ben"]
    listed = on_database("user", "list", "--account", account, "--json").json
    assert [(one["name"], one["role"]) for one in listed] == [("Ada", "owner"), ("Ben", "viewer")]
    assert "viewer" in on_database("user", "list", "--account", account).out
    assert on_database("user", "list", "--account", account, "--search", "x").status == 2
    assert on_database("user", "list", "--account", uuid4()).status == 1
    assert on_database("user", "create", "--account", account, "--name", "x", "--role", "king").status == 2


def test_an_operator_says_who_somebody_of_another_issuer_is(on_database: Command, database: str) -> None:
    """Who is locked out by another's registration gets the user that has his address, and the other is out."""
    issuer = "https://issuer.example"
    account = on_database("account", "create", "--name", "Acme", "--json").json["id"]
    made = on_database("user", "create", "--account", account, "--name", "Ada", "--email", "ada@acme.test",
                       "--password-link", "--json").json  # fmt: skip
    secret = made["password_link"].partition("token=")[2]
    assert asked(database, "/api/auth/reset", {"reset_token": secret, "new_password": PASSWORD}).status == 204
    credentials = {"email": "ada@acme.test", "password": PASSWORD}
    assert asked(database, "/api/auth/login", credentials).status == 200

    async def introduced() -> UUID | Case | None:
        async with pool_of(database) as pool:
            who = Introduced(issuer, "sub-1", "Ada", "ada@acme.test")
            try:
                person = await Identities(pool, Accounts(pool), "open").person(who)
            except ApiError as error:
                return error.case
            return person and person.id

    assert asyncio.run(introduced()) is Case.PERMISSION_DENIED
    words = ("--issuer", issuer, "--subject", "sub-1", "--json")
    linked = on_database("user", "link", made["id"], *words, "--forget-password").json
    assert [(one["issuer"], one["subject"]) for one in linked] == [(issuer, "sub-1")]
    assert asyncio.run(introduced()) == UUID(made["id"])
    assert asked(database, "/api/auth/login", credentials).status == 401
    assert on_database("user", "link", made["id"], *words).json == linked
    other = on_database("user", "create", "--account", account, "--name", "Ben", "--json").json["id"]
    assert "another user already" in on_database("user", "link", other, *words).err
    assert on_database("user", "unlink", other, *words).status == 1
    assert on_database("user", "unlink", made["id"], *words).json == []
    assert on_database("user", "identities", made["id"], "--json").json == []
    assert on_database("user", "link", made["id"], "--subject", "sub-1").status == 2

    async def trail() -> list[tuple[str, str]]:
        async with pool_of(database) as pool:
            rows = await pool.fetch("SELECT action, actor FROM audit_log WHERE action LIKE 'user.%link' ORDER BY id")
            return [(row["action"], row["actor"].partition(":")[0]) for row in rows]

    assert asyncio.run(trail()) == [("user.link", "cli"), ("user.link", "cli"), ("user.unlink", "cli")]
