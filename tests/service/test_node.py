"""OpenAI's SDK for Node against a whole meterproxy: what it gets is, member by member, what the provider gives it.

Its version is the newest that still runs on the Node of distributions; the next one needs a Node of its own.
"""

import asyncio
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.service.running import Service
from tests.tools import required

pytestmark = pytest.mark.asyncio(loop_scope="session")

SCRIPTS = Path(__file__).parent / "node"
INSTALL_SECONDS = 150
RUN_SECONDS = 60
OWN = frozenset({"created", "created_at", "completed_at", "obfuscation", "_request_id"})
"""Members that differ from one answer of the provider to the next."""
ID = re.compile(r"\b([a-z]+)[_-][0-9a-fA-F]{16,}\b")
"""An id, of which only the kind is the same each time."""


@pytest.fixture(scope="session")
def node(pytestconfig: pytest.Config) -> Path:
    """A directory with the scripts and the SDK, which is installed once a version."""
    npm = required("npm")
    required("node")
    version = json.loads((SCRIPTS / "package.json").read_text())["dependencies"]["openai"]
    assert pytestconfig.cache is not None
    directory = pytestconfig.cache.mkdir(f"node-openai-{version}")
    for source in [*SCRIPTS.glob("*.mjs"), SCRIPTS / "package.json"]:
        shutil.copy(source, directory)
    if not (directory / "installed").exists():
        options = ["--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
        done = subprocess.run(
            [npm, "install", *options],
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"npm could not install OpenAI's SDK: {done.stderr}"
        (directory / "installed").touch()
    return directory


async def run(node: Path, script: str, base_url: str, key: str, **environment: str) -> Any:
    """What a script tells."""
    process = await asyncio.create_subprocess_exec(
        required("node"),
        f"{script}.mjs",
        cwd=node,
        env={**os.environ, "TEST_BASE_URL": base_url, "TEST_API_KEY": key, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(RUN_SECONDS):
        said, complaints = await process.communicate()
    assert process.returncode == 0, complaints.decode()
    return json.loads(said)


def comparable(told: Any) -> Any:
    """What was told, without what differs each time."""
    if isinstance(told, dict):
        return {name: comparable(value) for name, value in told.items() if name not in OWN}
    if isinstance(told, list):
        return [comparable(value) for value in told]
    return ID.sub(r"\1", told) if isinstance(told, str) else told


@pytest.mark.parametrize("script", ["chat", "stream", "errors", "responses"])
async def test_gets_what_the_provider_gives(shared: Service, node: Path, script: str) -> None:
    """The same script tells the same through us and directly, and what it used is charged."""
    account, key = await shared.customer()
    through_us = await run(node, script, shared.base_url, key)
    direct = await run(node, script, shared.provider, "sk-provider")
    for name, told in direct.items():
        assert comparable(through_us[name]) == comparable(told), name
    assert through_us.keys() == direct.keys()
    assert await shared.balance_nanos(account) < 5 * 10**9


async def test_refusals_are_the_classes_that_programs_catch(shared: Service, node: Path) -> None:
    """Our own refusals are the SDK's errors, and what is hopeless is not tried again."""
    _, key = await shared.customer()
    poor, poor_key = await shared.customer("0")
    told = await run(node, "refusals", shared.base_url, key, TEST_POOR_KEY=poor_key)
    seen = {name: (error["name"], error["status"], error["code"]) for name, error in told.items()}
    assert seen == {
        "unknown_key": ("AuthenticationError", 401, "invalid_api_key"),
        "poor_key": ("RateLimitError", 429, "insufficient_quota"),
        "unknown_model": ("NotFoundError", 404, "model_not_priced"),
        "wrong_type": ("BadRequestError", 400, None),
        "unknown_path": ("NotFoundError", 404, "unknown_url"),
    }
    assert told["wrong_type"]["param"] == "max_tokens"
    assert {error["request_id"] for error in told.values()} == {"string"}
    assert not await shared.rows("SELECT 1 FROM usage_events WHERE account_id = $1", poor)
