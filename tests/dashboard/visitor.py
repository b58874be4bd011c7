"""A browser's requests without a browser: a cookie, forms, and what only our pages know."""

import time
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from meterproxy.control.identity import COOKIE
from meterproxy.control.tokens import PAGES, Claim
from tests.control.asking import Asking, Heard, Person


class Visitor:
    """Somebody who is signed in by a cookie."""

    def __init__(self, asking: Asking, login_id: UUID, user_id: UUID) -> None:
        self.asking = asking
        self.cookie = asking.tokens.make(Claim(user_id, login_id), int(time.time()), PAGES, 3600)
        self.csrf = asking.tokens.csrf(login_id)

    @classmethod
    async def of(cls, asking: Asking, person: Person) -> "Visitor":
        login_id = await asking.pool.fetchval("SELECT id FROM logins WHERE user_id = $1", person.id)
        return cls(asking, login_id, person.id)

    async def get(self, path: str, **headers: str) -> Heard:
        return await self.asking("GET", path, headers={"Cookie": f"{COOKIE}={self.cookie}", **headers})

    async def post(self, path: str, *, csrf: str | None = None, headers: Any = None, **fields: str) -> Heard:
        body = urlencode({"csrf": self.csrf if csrf is None else csrf, **fields}).encode()
        cookie = {"Cookie": f"{COOKIE}={self.cookie}", "Content-Type": "application/x-www-form-urlencoded"}
        return await self.asking("POST", path, body, headers={**cookie, **(headers or {})})
