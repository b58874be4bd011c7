"""Clusters that were made once a run: `initdb` and all migrations take seconds, a copy of what they made a tenth of one.

Tests whose subject is a first start do not use them.
"""

import atexit
import shutil
import subprocess
import tempfile
from pathlib import Path

from meterproxy.runtime.cluster import home_of
from meterproxy.runtime.embedded import EmbeddedPostgres
from meterproxy.store.migrate import migrate
from tests.environment import VOLUME
from tests.postgres import FORGETFUL

_made: dict[tuple[Path | None, bool], Path] = {}


async def lay(data_dir: Path, bin_dir: Path | None = None, *, migrated: bool = False) -> None:
    """Put a cluster below `data_dir`, as if a server of `bin_dir` (None: the wheel's) had been started and ended."""
    original = _made.get((bin_dir, migrated))
    if original is None:
        original = _made[bin_dir, migrated] = await _make(bin_dir, migrated=migrated)
    data_dir.mkdir(mode=0o701, parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", str(home_of(original)), str(home_of(data_dir))], check=True)


async def _make(bin_dir: Path | None, *, migrated: bool) -> Path:
    directory = Path(tempfile.mkdtemp(prefix="mp-test-", dir=VOLUME))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    directory.chmod(0o711)
    server = EmbeddedPostgres(directory, bin_dir, FORGETFUL)
    await server.start()
    try:
        if migrated:
            await migrate(server.dsn)
    finally:
        await server.stop()
    return directory
