"""The hostile requests against a real service: nothing is booked, nothing is held, nothing is written to its log."""

import asyncio

import pytest

from tests.proxy.hostile import CLOSE, NOTE, ROWS
from tests.proxy.raw import Raw, connected
from tests.service.running import Service

pytestmark = pytest.mark.asyncio(loop_scope="session")

SECONDS = 20


async def told(port: int, sent: bytes, *, half_closed: bool) -> str:
    """What a client is told for these bytes: a status, or that the connection ended."""
    async with asyncio.timeout(SECONDS), connected(port) as connection:
        connection.send(sent)
        if half_closed:
            connection.writer.write_eof()
        try:
            answer = await connection.answer()
        except (asyncio.IncompleteReadError, ConnectionError):
            return CLOSE
    assert NOTE not in answer.body
    assert answer.error["type"] == "invalid_request_error"
    return str(answer.status)


async def be_served(good: Raw, secret: str) -> None:
    good.send(b"GET /v1/models HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %b\r\n\r\n" % secret.encode())
    assert (await good.answer()).status == 200


async def test_hostile_requests_leave_no_trace(shared: Service) -> None:
    """Each is told what the table says while another client is served; then balance, holds, rows and log are clean."""
    account, secret = await shared.customer()
    _, other = await shared.customer()
    before = await shared.balance_nanos(account)
    wrong = []
    async with connected(shared.port) as good:
        for row in ROWS:
            if row.section == "waiting":
                continue  # its deadlines cannot be made short enough from outside
            answer = await told(shared.port, row.sent(secret), half_closed=row.section == "halved")
            if answer not in row.answers:
                wrong.append((row.name, answer))
            await be_served(good, other)
    assert not wrong
    assert await shared.balance_nanos(account) == before
    state = await shared.admin("GET", f"/admin/accounts/{account}?fresh=1", status=200)
    assert state["held_nanos"] == 0
    assert not await shared.rows("SELECT 1 FROM usage_events WHERE account_id = $1 AND amount_nanos > 0", account)
    log = (shared.data_dir.parent / "serve.log").read_bytes()
    assert NOTE not in log
    assert secret.encode() not in log
