"""Seal: secrets at rest, encrypted under the operator's master key.

Rules
-----
- AES-256-GCM. Each text has a key of its own, derived from the master key, the purpose and what the text is bound to
  (its row); so what was copied into another row cannot be opened there, and no key meets a nonce twice.
- `key_id` names the master key in the row, without telling anything of it: a row that was sealed under another one is
  known before it is tried.
"""

import hmac
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE_BYTES: Final = 12
KEY_ID_BYTES: Final = 8


class SealBroken(Exception):
    """What was sealed is not what is there, or it was sealed under another key."""


class Seal:
    """Seals and opens texts of one purpose."""

    def __init__(self, master_key: bytes, purpose: bytes) -> None:
        self._key = hmac.digest(master_key, b"meterproxy seal: " + purpose, "sha256")
        self.key_id = hmac.digest(master_key, b"meterproxy key id", "sha256")[:KEY_ID_BYTES]

    def seal(self, text: bytes, bound_to: bytes, nonce: bytes) -> bytes:
        """Encrypt a text for one row; `nonce` is random."""
        return nonce + self._cipher(bound_to).encrypt(nonce, text, bound_to)

    def open(self, sealed: bytes, bound_to: bytes) -> bytes:
        """The text again. Raises SealBroken."""
        try:
            return self._cipher(bound_to).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], bound_to)
        except (InvalidTag, ValueError) as error:
            raise SealBroken from error

    def _cipher(self, bound_to: bytes) -> AESGCM:
        return AESGCM(hmac.digest(self._key, bound_to, "sha256"))
