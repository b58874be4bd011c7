"""Stored providers by the API: what may be said of one, and that nothing secret of it is ever told."""

import html
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from meterproxy.core.provider import certificates
from tests.control.asking import ADMIN_TOKEN, Asking
from tests.dashboard.visitor import Visitor
from tests.ledger.bank import pool_of
from tests.proxy.scripted import CA_FILE, TLS

SECRET = "a-secret-of-some-length-1234"
CA = certificates(Path(CA_FILE).read_text())[0]
PATH = "/api/admin/providers"


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    async with pool_of(database) as pool:
        yield pool


def new(**more: Any) -> dict[str, Any]:
    return {"name": "second", "base_url": "https://second.example/v1", **more}


async def test_what_is_said_of_one_is_told_but_for_what_may_be_secret(pool: asyncpg.Pool) -> None:
    """Names of headers, authorities without what stood beside them, patience; what is not named stays."""
    asking = Asking(pool)
    told = {"headers": {"X-Team": SECRET}, "tls_ca": f"# ours\n{CA}\n", "timeouts": {"first_byte_seconds": 20}}
    made = (await asking("POST", PATH, new(**told), token=ADMIN_TOKEN)).body
    assert made["header_names"] == ["X-Team"]
    assert made["tls_ca"] == CA
    assert made["timeouts"] == {"connect_seconds": 5, "first_byte_seconds": 20, "between_bytes_seconds": 300}
    path = f"{PATH}/{made['id']}"
    wish = {"headers": {"X-Other": "b"}, "timeouts": {"connect_seconds": 0.5}}
    changed = (await asking("PATCH", path, wish, token=ADMIN_TOKEN)).body
    assert changed == {
        **made,
        "header_names": ["X-Other", "X-Team"],
        "timeouts": {"connect_seconds": 0.5, "first_byte_seconds": 20, "between_bytes_seconds": 300},
    }
    changed = (await asking("PATCH", path, {"headers": {"x-team": None}}, token=ADMIN_TOKEN)).body
    assert (changed["header_names"], changed["tls_ca"]) == (["X-Other"], made["tls_ca"])
    changed = (await asking("PATCH", path, {"tls_ca": None}, token=ADMIN_TOKEN)).body
    assert (changed["header_names"], changed["tls_ca"]) == ([], None), "whom the system trusts was not trusted before"
    for row in await pool.fetch("SELECT detail::text AS told FROM audit_log"):
        assert SECRET not in row["told"]
    listed = (await asking("GET", PATH, token=ADMIN_TOKEN)).body
    assert SECRET not in str(listed)
    assert listed["data"] == [changed]


@pytest.mark.parametrize(("member", "value", "said"), [
    ("headers", {"two words " + SECRET: "a"}, "number 1 has no header's name"),
    ("headers", {"X-Team": f"{SECRET}\r\nX-Other: b"}, "must be printable ASCII"),
    ("headers", {"X-Team": f"{SECRET}é"}, "must be printable ASCII"),
    ("headers", {"X-Team": f" {SECRET}"}, "must be printable ASCII without spaces around it"),
    ("headers", {"X-Team": ""}, "must"),
    ("headers", {"X-Team": None}, "must"),
    ("headers", {"X-Team": "a", "x-team": SECRET}, "x-team is there twice"),
    ("headers", {SECRET: ""}, "number 1 must not be empty"),
    ("headers", {"X-Team": "a", SECRET: None}, "number 2 must"),
    ("headers", {"X-Team": "a", SECRET: " "}, "number 2 must be printable ASCII without spaces around it"),
    ("headers", {SECRET * 5: "a"}, "number 1 must have at most 100 characters"),
    ("headers", {"": SECRET}, "number 1 must not be empty"),
    ("headers", [SECRET], "must be an object"),
    ("headers", {"authorization": SECRET}, "add that as a key"),
    ("headers", {"Content-Length": "3"}, "Content-Length is ours to write"),
    ("headers", {"X-Meterproxy-Tags": "a=b"}, "X-Meterproxy-Tags is ours to write"),
    ("headers", {f"X-{number}": "a" for number in range(21)}, "must have at most 20"),
    ("tls_ca", "nothing", "must be certificates in PEM"),
    ("tls_ca", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "must be certificates that can be read"),
    ("tls_ca", (TLS / "server.pem").read_text(), "there is a private key in it"),
    ("tls_ca", "x" * 65_537, "must have at most"),
    ("base_url", "http://a\0b/v1", "unescaped characters"),
    ("base_url", f"ftp://user:{SECRET}@a/v1", "must be a plain URL without user"),
    ("base_url", f"user:{SECRET}@a/v1", "must begin with http"),
    ("base_url", f"https://user:{SECRET}/2@a/v1", "cannot be read"),
    ("base_url", f"https://user:{SECRET}@℀/v1", "cannot be read"),
    ("base_url", f"https://user:{SECRET}＠a/v1", "cannot be read"),
    ("base_url", "http://[fe80::1%é]/v1", "names a host or a port that cannot be"),
    ("models", ["a", "b,c"], "without commas"),
    ("models", ["a\nb"], "without commas and line ends"),
    ("timeouts", {"connect_seconds": 0}, "must be above 0"),
    ("timeouts", {"first_byte_seconds": 3601}, "must be at most 3600"),
    ("timeouts", {"between_bytes_seconds": True}, "must be a number"),
    ("timeouts", {"patience": 1}, "is not known here"),
])  # fmt: skip
async def test_what_cannot_be_is_refused_by_its_name(pool: asyncpg.Pool, member: str, value: Any, said: str) -> None:
    """And what was said is not repeated: it may be a secret in the wrong place. Nor where one is changed."""
    asking = Asking(pool)
    made = (await asking("POST", PATH, new(), token=ADMIN_TOKEN)).body
    told = [await asking("POST", PATH, new(name="third", **{member: value}), token=ADMIN_TOKEN)]
    if said != "must have at most 20" and not (isinstance(value, dict) and None in value.values()):
        told.append(await asking("PATCH", f"{PATH}/{made['id']}", {member: value}, token=ADMIN_TOKEN))
    for answer in told:
        assert (answer.status, str(answer.param).split(".")[0]) == (400, member)
        assert said in answer.message
        assert SECRET not in f"{answer.param} {answer.message}"
    assert (await asking("GET", PATH, token=ADMIN_TOKEN)).body["data"] == [made]


async def test_a_page_shows_what_is_set_and_keeps_no_private_key(pool: asyncpg.Pool) -> None:
    """To the last digit, so that saving a form that nobody has touched changes nothing; and which keys cannot be opened."""
    asking = Asking(pool)
    person = await asking.person("operator")
    await pool.execute("UPDATE users SET is_operator = true")
    visitor = await Visitor.of(asking, person)
    waits = {"connect_seconds": 0.123456789, "first_byte_seconds": 1234.5678, "between_bytes_seconds": 60}
    made = (await asking("POST", PATH, new(models=["a*", "b"], tls_ca=CA, timeouts=waits), token=ADMIN_TOKEN)).body
    body = {"provider_id": made["id"], "secret": SECRET, "test": False}
    key = (await asking("POST", "/api/admin/provider-keys", body, token=ADMIN_TOKEN)).body
    assert key["usable"] is True
    page = (await visitor.get("/operate/providers")).body.decode()
    assert "cannot be opened, not in use" not in page
    fields = re.findall(rf'<input id="[^"]*-{made["id"]}" name="([^"]*)"[^>]* value="([^"]*)"', page)
    form = {name: html.unescape(value) for name, value in fields}
    assert form["timeouts.between_bytes_seconds"] == "60"
    assert (await visitor.post(f"/operate/providers/{made['id']}", tls_ca=made["tls_ca"], **form)).status == 303
    assert (await asking("GET", PATH, token=ADMIN_TOKEN)).body["data"] == [made]

    rotate = f"/operate/provider-keys/{key['id']}/rotate"
    assert b"cannot be reached" in (await visitor.post(rotate, secret="sk-another")).body
    done = await visitor.post(rotate, secret="sk-another-secret-5678", untested="1")
    assert (done.status, done.headers["Location"].endswith("done=provider-key-untested")) == (303, True)
    (key,) = (await asking("GET", "/api/admin/provider-keys", token=ADMIN_TOKEN)).body["data"]
    assert key["last_four"] == "5678"

    await pool.execute("UPDATE provider_keys SET master_key_id = 'other'")
    assert (await asking("GET", "/api/admin/provider-keys", token=ADMIN_TOKEN)).body["data"] == [
        {**key, "usable": False}
    ]
    assert "cannot be opened, not in use" in (await visitor.get("/operate/providers")).body.decode()
    pasted = (TLS / "server.pem").read_text()
    for path, name in ((f"/operate/providers/{made['id']}", {}), ("/operate/providers", {"name": "third"})):
        told = await visitor.post(path, tls_ca=pasted, base_url="https://third.example/v1", **name)
        assert (told.status, b"there is a private key in it" in told.body, b"third.example" in told.body) == (
            400,
            True,
            True,
        )
        assert b"BEGIN PRIVATE" not in told.body
