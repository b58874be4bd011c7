"""The environment that tests run in: nothing of a developer's provider, proxy or installation leaks in."""

import os
from collections.abc import Mapping, MutableMapping

_OURS = "METERPROXY_TEST_"
_PREFIXES = ("OPENAI_", "ANTHROPIC_", "AZURE_", "CLOUDFLARE_", "METERPROXY_", "PG")
_SUFFIXES = ("_PROXY",)


def scrub(environment: MutableMapping[str, str] = os.environ) -> None:
    """Remove every variable that could change what the tests talk to."""
    for name in list(environment):
        upper = name.upper()
        if (upper.startswith(_PREFIXES) or upper.endswith(_SUFFIXES)) and not upper.startswith(_OURS):
            del environment[name]


def scrubbed(environment: Mapping[str, str]) -> dict[str, str]:
    """A scrubbed copy."""
    copy = dict(environment)
    scrub(copy)
    return copy
