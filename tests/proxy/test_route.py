"""Routes: where requests go that cost nothing."""

import pytest

from meterproxy.core.key import KeyPolicy
from meterproxy.errors import ApiError, Case
from meterproxy.proxy.provider import Provider
from meterproxy.proxy.route import Router
from meterproxy.proxy.upstream import Origin, Upstream
from tests.proxy.fakes import key_entry
from tests.proxy.house import CATALOG

NOW_US = 1_795_262_400_000_000

CASES = """
# owner  | model   | goes to
-        | -       | first
-        | gpt-4o  | first
-        | llama-3 | second
second   | -       | second
second   | llama-3 | second
first    | llama-3 | first
gone     | -       | nowhere
-        | other   | unknown
second   | other   | unknown
first    | secret  | unknown
"""


def provider(name: str, *models: str) -> Provider:
    return Provider(name, Upstream(Origin.from_base_url("http://127.0.0.1:9/v1"), environ={}), models=models)


def router() -> Router:
    return Router((provider("first", "gpt-*", "secret"), provider("second", "llama-*", "gpt-*")), CATALOG)


@pytest.mark.parametrize("row", [line for line in CASES.strip().splitlines() if not line.startswith("#")])
def test_free_requests(row: str) -> None:
    """What is mentioned decides, then the model, then the configuration's order; an unknown model is unknown to all."""
    owner, model, expected = (
        cell.strip().replace("-", "", 1) if cell.strip() == "-" else cell.strip() for cell in row.split("|")
    )
    key = key_entry(policy=KeyPolicy(models=("gpt-*", "llama-*", "other")))
    if expected == "unknown":
        with pytest.raises(ApiError) as unknown:
            router().free_route(model, owner or None, "response", key, NOW_US)
        assert unknown.value.case is Case.MODEL_NOT_FOUND
        return
    route = router().free_route(model, owner or None, "response", key, NOW_US)
    assert (route.provider.name if route is not None else "nowhere") == expected
    assert route is None or route.price.free


def test_resting_provider() -> None:
    """A provider that has refused our account is not asked for free things either."""
    made = router()
    made.providers[0].rest(NOW_US)
    with pytest.raises(ApiError) as resting:
        made.free_route("", None, "response", key_entry(), NOW_US)
    assert resting.value.case is Case.UPSTREAM_ACCOUNT
