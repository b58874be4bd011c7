"""Sealing: secrets as rows keep them, under today's master key, and opened under it or an earlier one."""

import logging
import os
from collections.abc import Sequence
from typing import Final

from meterproxy.core.seal import NONCE_BYTES, Seal, SealBroken

_log: Final = logging.getLogger(__name__)


class Sealing:
    """`seal` seals and opens; `earlier` only open, while a master key is being replaced."""

    def __init__(self, seal: Seal, earlier: Sequence[Seal] = ()) -> None:
        self._seal = seal
        self._seals = {one.key_id: one for one in (*earlier, seal)}

    @property
    def key_id(self) -> bytes:
        """Names the master key under which is sealed."""
        return self._seal.key_id

    def opens(self, sealed: bytes, bound_to: bytes, master_key_id: bytes) -> bool:
        """Whether this can be opened; the log is told nothing."""
        seal = self._seals.get(master_key_id)
        try:
            return seal is not None and seal.open(sealed, bound_to) is not None
        except SealBroken:
            return False

    def sealed(self, secret: str, bound_to: bytes) -> bytes:
        """A secret as a row keeps it."""
        return self._seal.seal(secret.encode(), bound_to, os.urandom(NONCE_BYTES))

    def opened(self, sealed: bytes, bound_to: bytes, master_key_id: bytes, what: dict[str, str]) -> str | None:
        """The secret again; None where it cannot be had, which the log tells with `what` it is of."""
        seal = self._seals.get(master_key_id)
        if seal is None:
            _log.error("a secret of a provider is sealed under another master_key", extra=what)
            return None
        try:
            return seal.open(sealed, bound_to).decode()
        except SealBroken:
            _log.error("a secret of a provider is damaged, or was sealed for another server", extra=what)
            return None
