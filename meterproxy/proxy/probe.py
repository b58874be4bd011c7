"""A probe: whether a provider takes a key, found out by asking it for its models before the key is kept."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Final

from meterproxy.core.provider import ProviderTerms
from meterproxy.errors import ApiError, Case, ConfigError
from meterproxy.proxy.models import ask, listed
from meterproxy.proxy.provider import Provider, as_sent
from meterproxy.proxy.upstream import Origin, Upstream, UpstreamError

SECONDS: Final = 15.0
_UNREACHABLE: Final[Mapping[str, str]] = {
    "dns": "The name in its address is not known.",
    "connect": "Nothing answers at its address.",
    "connect_timeout": "Nothing answers at its address.",
    "proxy": "The proxy that HTTPS_PROXY names does not let us there.",
    "tls": "It shows no certificate that is trusted here.",
}
_UNTESTED: Final = "If you know better, add the key untested."
_NO_LIST: Final = f"What the provider answers to /models is no list of models. {_UNTESTED}"


async def probe(terms: ProviderTerms, secret: str, headers: Iterable[tuple[str, str]] = ()) -> int:
    """How many models the provider lists for this key, asked with these headers; it is not waited for as `terms` say.

    Raises:
        ApiError: MALFORMED where the address cannot be used, or the provider refuses the key, has no list, or cannot be
            reached; what is said tells nothing of the key.
    """
    try:
        upstream = Upstream(
            Origin.from_base_url(terms.base_url, tls_ca=terms.tls_ca, connect_seconds=5.0, first_byte_seconds=10.0)
        )
    except ConfigError as error:
        raise ApiError(Case.MALFORMED, f"base_url: {error}.", param="base_url") from error
    try:
        async with asyncio.timeout(SECONDS):
            status, body = await ask(Provider("probe", upstream, secret, headers=as_sent(headers)))
    except UpstreamError as error:
        if error.reason == "body_too_large":
            raise _failed(_NO_LIST) from error
        why = _UNREACHABLE.get(error.reason, "It does not speak HTTP as it should.")
        raise _failed(f"The provider cannot be reached. {why}") from error
    except TimeoutError as error:
        raise _failed("The provider did not answer in time.") from error
    finally:
        await upstream.close()
    _check(status)
    try:
        return len(list(listed(body)))
    except ApiError as error:
        raise _failed(_NO_LIST) from error


def _check(status: int) -> None:
    if status in {401, 403}:
        raise _failed("The provider does not take this key.", param="secret")
    if status in {404, 405}:
        raise _failed(f"There is no list of models at this address ({status}). {_UNTESTED}")
    if status != 200:
        raise _failed(f"The provider answered with status {status}: nothing is known of the key. {_UNTESTED}")


def _failed(text: str, param: str = "base_url") -> ApiError:
    return ApiError(Case.MALFORMED, text, param=param)
