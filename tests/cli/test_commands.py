"""Commands on a real database, as an operator strings them together."""

import asyncio
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.cli.conftest import Command
from tests.postgres import reachable_directory


def made_account(run: Command, amount: str | None = None) -> str:
    """The id of a fresh account, with credit where an amount is given."""
    account: str = run("account", "create", "--name", "Acme", "--json").json["id"]
    if amount:
        assert run("credit", "grant", "--account", account, "--amount", amount).status == 0
    return account


def test_migrate(command: Command, empty_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first run applies everything, the second nothing."""
    monkeypatch.setenv("METERPROXY_DATABASE_URL", empty_database)
    first = command("migrate", "--json").json["applied"]
    assert first[0] == "0001_foundation"
    assert command("migrate").out == "the schema is up to date\n"


def test_account_create_and_list(on_database: Command) -> None:
    """A new account is listed with a balance of nothing."""
    account = made_account(on_database)
    (row,) = on_database("account", "list", "--json").json
    assert (row["id"], row["balance"], row["balance_nanos"]) == (account, "0.00", 0)
    table = on_database("account", "list").out.splitlines()
    assert table[0].split() == ["id", "organization", "balance", "held", "available", "created", "at"]
    assert table[1].startswith(account)


def test_lists_go_on_behind_a_cursor(on_database: Command) -> None:
    """A page ends where the limit says and the next one begins behind it."""
    first, second = made_account(on_database), made_account(on_database)
    (page,) = on_database("account", "list", "--limit", "1", "--json").json
    (rest,) = on_database("account", "list", "--after", page["id"], "--json").json
    assert (page["id"], rest["id"]) == (first, second)


def test_audit_says_what_keeps_old_usage(on_database: Command, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where rows are dropped at all: what it is, how many there are and since when."""

    async def leave_undecided() -> None:
        connection = await asyncpg.connect(database)
        await connection.execute(
            "INSERT INTO replaced_requests SELECT gen_random_uuid(), gen_random_uuid(), '2025-03-04 UTC', "
            "gen_random_uuid(), gen_random_uuid(), now(), gen_random_uuid(), 'pending', now(), now(), NULL"
        )
        await connection.close()

    asyncio.run(leave_undecided())
    assert on_database("audit").err == ""
    monkeypatch.setenv("METERPROXY_USAGE__RETENTION_DAYS", "40")
    words = "old usage from 2025-03-04 on is kept for replaced requests that are not decided: 1"
    assert on_database("audit").err == f"meterproxy: {words}\n"


def test_credit(on_database: Command) -> None:
    """Grants and adjustments add up to the balance, entry by entry."""
    account = made_account(on_database, "5.00")
    entry = on_database(
        "credit", "grant", "--account", account, "--amount", "-0.000000001", "--kind", "adjustment",
        "--description", "rounding", "--json",
    ).json  # fmt: skip
    assert (entry["amount"], entry["balance_after_nanos"]) == ("-0.000000001", 4_999_999_999)
    assert entry["actor"].startswith("cli")
    assert on_database("credit", "balance", "--account", account, "--json").json["available"] == "4.999999999"
    newest, oldest = on_database("credit", "history", "--account", account, "--json").json
    assert (newest["description"], oldest["kind"]) == ("rounding", "grant")
    assert on_database("credit", "history", "--account", account, "--before", "2", "--json").json == [oldest]
    assert on_database("credit", "history", "--account", account, "--kind", "grant", "--json").json == [oldest]
    both = ("--kind", "grant", "--kind", "adjustment")
    assert on_database("credit", "history", "--account", account, *both, "--json").json == [newest, oldest]
    assert on_database("credit", "history", "--account", account, "--kind", "gift").status == 2


def test_idempotent_grant(on_database: Command) -> None:
    """The same command twice is one entry; the same key with another amount is an error."""
    account = made_account(on_database)
    words = ("credit", "grant", "--account", account, "--idempotency-key", "k", "--json", "--amount")
    assert on_database(*words, "1").json == on_database(*words, "1.00").json
    other = on_database(*words, "2")
    assert other.status == 1
    assert other.err == "meterproxy: This idempotency key was used for another entry.\n"


def test_unknown_account(on_database: Command) -> None:
    """An account that does not exist is told in one line."""
    account = uuid4()
    done = on_database("credit", "balance", "--account", account)
    assert (done.status, done.err) == (1, f"meterproxy: There is no account {account}.\n")


def test_keys(on_database: Command) -> None:
    """A key's secret is shown when it is made and rotated, and never again."""
    account = made_account(on_database)
    user = on_database(
        "user", "create", "--account", account, "--name", "Ada", "--email", "ada@acme.test", "--json"
    ).json
    made = on_database(
        "key", "create", "--account", account, "--name", "laptop", "--user", user["id"], "--model", "gpt-*",
        "--network", "10.0.0.0/8", "--highest-request", "0.50", "--json",
    )  # fmt: skip
    assert made.json["key"].startswith(made.json["prefix"])
    assert "shown this once" in made.err
    (row,) = on_database("key", "list", "--account", account, "--json").json
    assert (row["user_id"], row["models"], row["highest_request"]) == (user["id"], ["gpt-*"], "0.50")
    assert row["networks"] == ["10.0.0.0/8"]
    assert made.json["key"] not in on_database("key", "list", "--json").out

    successor = on_database("key", "rotate", made.json["id"], "--grace-seconds", "60", "--json").json
    assert successor["key"] != made.json["key"]
    assert on_database("key", "revoke", successor["id"], "--json").json["revoked_at"] is not None


def test_bad_network(on_database: Command) -> None:
    """A network that is none is wrong usage."""
    done = on_database("key", "create", "--account", uuid4(), "--name", "n", "--network", "10.0.0.1/8")
    assert (done.status, done.err.startswith("meterproxy: Invalid value for --network")) == (2, True)


def test_embedded_database_lives_for_the_command(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a database URL a command starts its own, brings the schema up, and the next one finds the rows."""
    with reachable_directory() as directory:
        monkeypatch.setenv("METERPROXY_DATA_DIR", str(directory / "data"))
        account = made_account(command, "1.00")
        assert UUID(account)
        assert command("credit", "balance", "--account", account, "--json").json["balance"] == "1.00"
        assert not (directory / "data" / "postgres" / "data" / "postmaster.pid").exists()


def test_no_journal(command: Command, tmp_path: Path) -> None:
    """Where no worker ever ran, that is said."""
    done = command("journal", "inspect")
    assert (done.status, done.err) == (1, f"meterproxy: there is no journal in {tmp_path / 'data' / 'journals'}\n")


def test_audit(on_database: Command) -> None:
    """Every invariant is named, and a database that only saw grants keeps them all."""
    made_account(on_database, "5.00")
    done = on_database("audit", "--json")
    assert done.status == 0
    assert done.json
    assert all(result["ok"] for result in done.json)


def test_explain_of_nothing(on_database: Command) -> None:
    """A request that was never settled is told in one line."""
    request = uuid4()
    done = on_database("explain", request)
    assert (done.status, done.err) == (1, f"meterproxy: Nothing is settled under request id {request}.\n")


def test_limits(on_database: Command) -> None:
    """A limit is made, shown, changed and retired; money is exact, and what makes no sense is one line."""
    account = made_account(on_database)
    words = ("limit", "create", "--scope", "account", "--scope-id", account, "--json")
    made = on_database(*words, "--measure", "amount", "--window", "month", "--cap", "25.50", "--name", "monthly").json
    assert (made["cap"], made["cap_nanos"], made["marks"]) == ("25.50", 25_500_000_000, [75, 90, 100])
    rate = on_database(
        *words, "--measure", "requests", "--window", "minute", "--cap", "60", "--soft", "--mark", "80"
    ).json
    assert (rate["cap"], rate["enforcement"], rate["marks"]) == (60, "soft", [80])
    assert on_database("limit", "set", made["id"], "--cap", "30", "--grace", "1.00", "--json").json["cap"] == "30.00"
    assert on_database("limit", "set", rate["id"], "--cap", "none", "--hard", "--json").json["cap"] is None
    status = on_database("limit", "status", made["id"], "--json").json
    assert (status["used"], status["held"], status["remaining"]) == ("0.00", "0.00", "30.00")
    table = on_database("limit", "list", "--account", account).out.splitlines()
    assert "25.50" not in table[1]
    assert table[1].split()[:3] == [made["id"], "monthly", "account"]
    assert on_database("limit", "retire", made["id"], "--json").json["retired_at"]
    assert len(on_database("limit", "list", "--json").json) == 1
    for wrong, told in (
        (("--measure", "requests", "--window", "minute", "--cap", "1.5"), "must be a whole number"),
        (("--measure", "amount", "--window", "day", "--cap", "five"), "--cap"),
    ):
        done = on_database(*words, *wrong)
        assert done.status == 2
        assert told in done.err
    senseless = on_database(*words, "--measure", "requests")
    assert (senseless.status, senseless.err.count("\n")) == (1, 1)


def test_teams_and_what_a_key_may_do(on_database: Command) -> None:
    """A key's team and policy are set when it is made, and change later."""
    account = made_account(on_database)
    team = on_database("team", "create", "--account", account, "--name", "research", "--json").json
    assert on_database("team", "list", "--account", account, "--json").json == [team]
    renamed = on_database("team", "rename", team["id"], "--name", "Research", "--json").json
    assert renamed == {**team, "name": "Research"}
    gone = on_database("team", "create", "--account", account, "--name", "research", "--json").json
    assert on_database("team", "remove", gone["id"]).status == 0
    assert on_database("team", "list", "--account", account, "--json").json == [renamed]
    assert on_database("account", "rename", account, "--name", "Acme Ltd", "--json").json["organization"] == "Acme Ltd"
    key = on_database("key", "create", "--account", account, "--name", "k", "--team", team["id"], "--json").json
    changed = on_database(
        "key", "set", key["id"], "--model", "gpt-*", "--operation", "chat", "--network", "10.0.0.0/8",
        "--highest-request", "0.10", "--expires-at", "2030-01-01T00:00:00Z", "--name", "new", "--json",
    ).json  # fmt: skip
    assert (changed["models"], changed["operations"], changed["networks"]) == (["gpt-*"], ["chat"], ["10.0.0.0/8"])
    assert (changed["highest_request"], changed["name"], changed["team_id"]) == ("0.10", "new", team["id"])
    free = on_database(
        "key", "set", key["id"], "--model", "any", "--team", "any", "--highest-request", "any", "--json"
    ).json
    assert (free["models"], free["team_id"], free["highest_request_nanos"]) == (None, None, None)
    assert free["networks"] == ["10.0.0.0/8"]
    assert on_database("key", "set", key["id"], "--reads-usage", "--json").json["reads_usage"]
    assert on_database("key", "set", key["id"], "--name", "still", "--json").json["reads_usage"]
    assert not on_database("key", "set", key["id"], "--no-reads-usage", "--json").json["reads_usage"]
    reader = on_database("key", "create", "--account", account, "--name", "r", "--reads-usage", "--json").json
    assert on_database("key", "set", reader["id"], "--name", "reader", "--json").json["reads_usage"]
    called = on_database("key", "set", key["id"], "--name", "any", "--description", "any", "--json").json
    assert (called["name"], called["description"]) == ("any", "any")
    for wrong in (
        ("--operation", "cook"),
        ("--network", "x"),
        ("--highest-request", "0"),
        ("--team", "x"),
        ("--name", ""),
    ):
        assert on_database("key", "set", key["id"], *wrong).status == 2
