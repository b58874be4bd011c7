"""Passwords: hashed by argon2id, in threads, a few at a time.

Rules
-----
- A hash takes tens of milliseconds and megabytes; the loop of a worker has other work. So it is done in a thread, by
  `AT_ONCE` at a time, with `MOST_WAITING` in line; whoever comes then is told to come again.
- Whether somebody exists shows neither by what is answered nor by how long that takes: who is unknown has a hash, too.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from meterproxy.errors import ApiError, Case

AT_ONCE: Final = 2
MOST_WAITING: Final = 64
MEMORY_KIB: Final = 19 * 1024
PASSES: Final = 2
"""Memory and passes as OWASP's cheat sheet on storing passwords recommends them for argon2id."""

T = TypeVar("T")


class Passwords:
    """Hashes and checks passwords.

    Args:
        memory_kib, passes: what a hash takes; less is for tests of something else.
    """

    def __init__(self, memory_kib: int = MEMORY_KIB, passes: int = PASSES) -> None:
        self._hasher = PasswordHasher(time_cost=passes, memory_cost=memory_kib, parallelism=1)
        self._threads = ThreadPoolExecutor(AT_ONCE, "passwords")
        self._waiting = 0
        self._nobody: str | None = None

    async def hash(self, password: str) -> str:
        """What is stored of a password. Raises ApiError OVERLOADED."""
        return await self._apart(lambda: self._hasher.hash(password))

    async def check(self, password: str, stored: str | None) -> bool:
        """Whether this is the password; as slow for somebody who has none. Raises ApiError OVERLOADED."""
        return await self._apart(lambda: self._verify(password, stored))

    def _verify(self, password: str, stored: str | None) -> bool:
        if self._nobody is None:
            self._nobody = self._hasher.hash("nobody")
        try:
            return self._hasher.verify(stored or self._nobody, password) and stored is not None
        except (VerificationError, InvalidHashError):
            return False

    async def _apart(self, work: Callable[[], T]) -> T:
        if self._waiting >= MOST_WAITING:
            raise ApiError(Case.OVERLOADED, "Too many people sign in right now. Please try again.")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._waiting -= 1
