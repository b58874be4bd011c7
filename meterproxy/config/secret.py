"""Secrets that nobody set: made once, kept in `data_dir/secrets`, the same after every restart.

Rules
-----
- Files are 0600 in a 0700 directory from the moment they exist; a secret is whole or absent, never half written.
- A secret that is set in the configuration is never written to disk.
"""

import base64
import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pydantic import SecretStr, ValidationError

from meterproxy.config.schema import MASTER_KEY_BYTES, Config
from meterproxy.errors import ConfigError

MAKERS: Final[dict[str, Callable[[], str]]] = {
    "admin_token": lambda: f"mpa-{secrets.token_urlsafe(32)}",
    "master_key": lambda: base64.b64encode(secrets.token_bytes(MASTER_KEY_BYTES)).decode(),
    "jwt_secret": lambda: secrets.token_urlsafe(48),
}


def secret_path(config: Config, name: str) -> Path:
    """Where a made secret is kept."""
    return config.data_dir / "secrets" / name


def ensure_secrets(config: Config) -> Config:
    """Fill in the secrets that are not set, making and keeping those that no earlier start has made.

    Raises:
        ConfigError: a secret cannot be read or kept, or its file was damaged.
    """
    filled = {name: _kept(config, name) for name in MAKERS if getattr(config, name) is None}
    try:
        Config.model_validate(filled)
    except ValidationError as error:
        names = ", ".join(str(secret_path(config, str(problem["loc"][0]))) for problem in error.errors())
        raise ConfigError(f"damaged secret, restore it from a backup or remove it to get a new one: {names}") from error
    return config.model_copy(update=filled)


def _kept(config: Config, name: str) -> SecretStr:
    path = secret_path(config, name)
    try:
        if not path.exists():
            _keep(path, MAKERS[name]())
        return SecretStr(path.read_text(encoding="ascii").strip())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot keep the secret {name} in {path}: {error}; or set {name}") from error


def _keep(path: Path, value: str) -> None:
    """Write a secret; where two starts race, the first one's stays."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(f"{value}\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
