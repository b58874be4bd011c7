"""A probe: whether a provider takes a key, found out by asking it for its models before the key is kept."""

import asyncio
from typing import Final

from meterproxy.errors import ApiError, Case, ConfigError
from meterproxy.proxy.models import ProviderModels
from meterproxy.proxy.provider import Provider
from meterproxy.proxy.upstream import Origin, Upstream

SECONDS: Final = 15.0


async def probe(base_url: str, secret: str) -> int:
    """How many models the provider lists for this key.

    Raises:
        ApiError: MALFORMED where the address cannot be used, or the provider refuses the key or cannot be reached; what
            is said tells nothing of the key.
    """
    try:
        upstream = Upstream(Origin.from_base_url(base_url, connect_seconds=5.0, first_byte_seconds=10.0))
    except ConfigError as error:
        raise ApiError(Case.MALFORMED, f"base_url: {error}.", param="base_url") from error
    try:
        async with asyncio.timeout(SECONDS):
            return len(await ProviderModels(Provider("probe", upstream, secret)).read(0))
    except ApiError as error:
        refused = error.case is Case.UPSTREAM_ACCOUNT
        text = "The provider does not take this key." if refused else "The provider cannot be reached at its address."
        raise ApiError(Case.MALFORMED, text, param="secret" if refused else "base_url") from error
    except TimeoutError as error:
        raise ApiError(Case.MALFORMED, "The provider did not answer in time.", param="base_url") from error
    finally:
        await upstream.close()
