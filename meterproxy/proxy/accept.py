"""Accept: what a request is, as far as its head and the members of its body that we read can tell.

Rules
-----
- The body's bytes are kept as they came; only spans of members are known.
- A request body with a content coding is refused: what it holds could not be bounded.
"""

from typing import NamedTuple

from multidict import MultiMapping

from meterproxy.errors import ApiError, Case
from meterproxy.proxy.body import Members, scan
from meterproxy.proxy.endpoints import Endpoint, Way


class Asked(NamedTuple):
    """A request that was read; `model` is empty where it names none and needs none."""

    endpoint: Endpoint
    members: Members
    model: str
    stream: bool


def check_readable(headers: MultiMapping[str]) -> None:
    """Refuse what could not be read anyway, before its body comes.

    Raises:
        ApiError: ENCODING_UNSUPPORTED.
    """
    if any(coding.strip().lower() != "identity" for coding in headers.getall("Content-Encoding", ())):
        raise ApiError(Case.ENCODING_UNSUPPORTED, "Request bodies with a Content-Encoding are not supported.")


def read_asked(endpoint: Endpoint, body: bytes) -> Asked:
    """Read the members that decide where a request goes.

    Raises:
        ApiError: MALFORMED.
    """
    if endpoint.way is Way.FREE and not (body and endpoint.members):
        return Asked(endpoint, Members(b"", {}, endpoint.members, None), "", stream=False)
    members = scan(body, endpoint.members)
    model = members.string("model") or endpoint.default_model
    if not model:
        if endpoint.way is Way.FREE:
            return Asked(endpoint, members, "", stream=False)
        raise ApiError(Case.MALFORMED, "you must provide a model parameter", param="model")
    return Asked(endpoint, members, model, endpoint.streams and members.boolean("stream"))
