"""Stored providers by the API: what may be said of one, and that nothing secret of it is ever told."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from meterproxy.core.provider import certificates
from tests.control.asking import ADMIN_TOKEN, Asking
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
    ("headers", {"authorization": SECRET}, "add that as a key"),
    ("headers", {"Content-Length": "3"}, "Content-Length is ours to write"),
    ("headers", {"X-Meterproxy-Tags": "a=b"}, "X-Meterproxy-Tags is ours to write"),
    ("headers", {f"X-{number}": "a" for number in range(21)}, "must have at most 20"),
    ("tls_ca", "nothing", "must be certificates in PEM"),
    ("tls_ca", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "must be certificates that can be read"),
    ("tls_ca", (TLS / "server.pem").read_text(), "there is a private key in it"),
    ("tls_ca", "x" * 65_537, "must have at most"),
    ("timeouts", {"connect_seconds": 0}, "must be above 0"),
    ("timeouts", {"first_byte_seconds": 3601}, "must be at most 3600"),
    ("timeouts", {"between_bytes_seconds": True}, "must be a number"),
    ("timeouts", {"patience": 1}, "is not known here"),
])  # fmt: skip
async def test_what_cannot_be_is_refused_by_its_name(pool: asyncpg.Pool, member: str, value: Any, said: str) -> None:
    """And what was said is not repeated: it may be a secret in the wrong place."""
    answer = await Asking(pool)("POST", PATH, new(**{member: value}), token=ADMIN_TOKEN)
    assert (answer.status, str(answer.param).split(".")[0]) == (400, member)
    assert said in answer.message
    assert SECRET not in f"{answer.param} {answer.message}"
