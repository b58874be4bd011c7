"""Providers and their keys by commands, and the exhibit."""

import base64
import io
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.proxy.scripted import CA_FILE

SECRET = "sk-a-secret-of-some-length-1234"


def test_a_provider_and_its_keys(on_database: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Secrets come in by standard input and are never shown; the master key is replaced; what is removed is gone."""
    old, new = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))
    monkeypatch.setenv("METERPROXY_MASTER_KEY", old)
    provider = on_database(
        "provider", "add", "--name", "second", "--base-url", "https://second.example/v1", "--model", "a*", "--json"
    ).json
    assert on_database("provider", "list", "--json").json[0]["models"] == ["a*"]
    changed = on_database("provider", "set", provider["id"], "--model", "b*", "--prices", "groq", "--json").json
    assert changed == {**provider, "models": ["b*"], "prices": "groq"}
    assert on_database("provider", "set", provider["id"], "--base-url", "ftp://x").status == 2
    unknown = on_database("provider", "set", provider["id"], "--prices", "nobodys")
    assert unknown.status == 2
    assert "no prices are known under 'nobodys'; there are" in unknown.err
    (headers := tmp_path / "headers").write_text(f"X-Team: {SECRET}\n\nX-Other: b\n")
    reached = ("--headers", str(headers), "--tls-ca-file", CA_FILE, "--connect-seconds", "2.5")
    done = on_database("provider", "set", provider["id"], *reached, "--json")
    assert (done.json["header_names"], SECRET in done.out) == (["X-Other", "X-Team"], False)
    assert done.json["timeouts"] == {**provider["timeouts"], "connect_seconds": 2.5}
    assert done.json["tls_ca"] in Path(CA_FILE).read_text()
    headers.write_text("X-Other:")
    assert on_database("provider", "set", provider["id"], "--headers", str(headers), "--json").json["header_names"] == [
        "X-Team"
    ]
    assert on_database("provider", "set", provider["id"], "--system-tls", "--json").json["tls_ca"] is None
    assert on_database("provider", "set", provider["id"], *reached, "--system-tls").status == 2
    headers.write_text(f"X-Other: b\n{SECRET}:\n")
    told = on_database("provider", "add", "--name", "x", "--base-url", "https://x/v1", "--headers", str(headers))
    assert (told.status, "headers: number 2 must" in told.err, SECRET in told.err) == (2, True, False)
    headers.write_bytes(b"X-Other: \xff")
    told = on_database("provider", "set", provider["id"], "--headers", str(headers))
    assert (told.status, told.err.count("\n"), "headers" in told.err) == (2, 1, True)
    headers.write_text(SECRET)
    wrong = on_database("provider", "set", provider["id"], "--headers", str(headers))
    assert (wrong.status, "Line 1 must be written as" in wrong.err, SECRET in wrong.err) == (1, True, False)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{SECRET}\n"))
    key = on_database("provider-key", "add", "--provider", provider["id"], "--untested", "--json")
    assert (key.json["last_four"], SECRET in key.out + key.err) == ("1234", False)
    monkeypatch.setattr("sys.stdin", io.StringIO("sk-another-secret-of-ours-5678"))
    assert on_database("provider-key", "rotate", key.json["id"], "--untested", "--json").json["last_four"] == "5678"

    monkeypatch.setenv("METERPROXY_MASTER_KEY", new)
    assert on_database("provider-key", "reseal").status == 1
    monkeypatch.setenv("METERPROXY_MASTER_KEY_PREVIOUS", old)
    assert (on_database("provider-key", "reseal").status, on_database("provider-key", "reseal").status) == (0, 0)

    assert on_database("provider-key", "remove", key.json["id"]).status == 0
    assert on_database("provider-key", "list", "--json").json == []
    assert on_database("provider", "remove", provider["id"]).status == 0
    assert on_database("provider", "list", "--json").json == []


def test_what_cannot_be_a_provider_is_told_in_one_line(on_database: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that is none, a name that is none, a secret that is none, a provider that takes no key."""
    address = on_database("provider", "add", "--name", "x", "--base-url", "ftp://x")
    assert (address.status, address.err.count("\n"), "base_url" in address.err) == (2, 1, True)
    name = on_database("provider", "add", "--name", "a b", "--base-url", "https://x/v1")
    assert (name.status, "name" in name.err) == (2, True)
    made = on_database("provider", "add", "--name", "x", "--base-url", "http://127.0.0.1:9/v1", "--json").json
    monkeypatch.setattr("sys.stdin", io.StringIO("two words\n"))
    done = on_database("provider-key", "add", "--provider", made["id"])
    assert (done.status, "secret: must be printable ASCII" in done.err, "two words" in done.err) == (2, True, False)
    for given, name, said in (
        ("", "x", "secret: must not be empty"),
        ("x" * 20_000, "x", "secret: must have at most 1000 characters"),
        (SECRET, "x" * 201, "name: must have at most 200 characters"),
    ):
        monkeypatch.setattr("sys.stdin", io.StringIO(given))
        done = on_database("provider-key", "add", "--provider", made["id"], "--name", name)
        assert (done.status, done.err.count("\n"), said in done.err) == (2, 1, True), done.err
    monkeypatch.setattr("sys.stdin", io.StringIO(SECRET))
    done = on_database("provider-key", "add", "--provider", made["id"])
    assert (done.status, "cannot be reached" in done.err, SECRET in done.err) == (1, True, False)


def test_the_exhibit_says_that_it_is_made_up(on_database: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made once; the second time there is a new password for it."""
    monkeypatch.setattr("meterproxy.service.exhibit.make_exhibit.__defaults__", (200,))
    done = on_database("demo", "--json")
    assert done.status == 0
    assert done.json["requests"] == 200
    assert "made up" in done.err
    assert on_database("audit").status == 0
    again = on_database("demo", "--json")
    assert (again.status, again.json["account_id"], again.json["requests"]) == (0, done.json["account_id"], 0)
    assert again.json["password"] != done.json["password"]
    assert ("new password" in done.err, "new password" in again.err) == (False, True)
