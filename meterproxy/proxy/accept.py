"""Accept: what a request is, as far as its head and the members of its body that we read can tell.

Rules
-----
- The body's bytes are kept as they came; only spans of members are known.
- A request body with a content coding is refused: what it holds could not be bounded.
"""

from typing import Final

import msgspec

from meterproxy.errors import ApiError, Case
from meterproxy.proxy.body import Members, scan
from meterproxy.proxy.endpoints import Endpoint, Way
from meterproxy.proxy.request_head import RequestHead

_USAGE_OPTIONS: Final = frozenset({"include_usage", "continuous_usage_stats"})
"""The second is vLLM's: usage in every event, which it heeds only beside the first."""


class Asked(msgspec.Struct, frozen=True):
    """A request that was read.

    `model` is empty where it names none and needs none; `usage_options` are those of a stream that tells usage only
    if it is asked to, if the client gave any.
    """

    endpoint: Endpoint
    members: Members
    model: str
    stream: bool
    usage_options: Members | None = None


def check_readable(head: RequestHead) -> None:
    """Refuse what could not be read anyway, before its body comes.

    Raises:
        ApiError: ENCODING_UNSUPPORTED.
    """
    if head.coded is None:
        codings = head.headers.getall("Content-Encoding", ())
        head.coded = any(coding.strip().lower() != "identity" for coding in codings)
    if head.coded:
        raise ApiError(Case.ENCODING_UNSUPPORTED, "Request bodies with a Content-Encoding are not supported.")


def read_asked(endpoint: Endpoint, body: bytes) -> Asked:
    """Read the members that decide where a request goes.

    Raises:
        ApiError: MALFORMED.
    """
    if unread(endpoint, body):
        return Asked(endpoint, Members(b"", {}, endpoint.members, None), "", stream=False)
    return asked_of(endpoint, scan(body, endpoint.members))


def unread(endpoint: Endpoint, body: bytes) -> bool:
    """Whether nothing of a body matters."""
    return endpoint.way is Way.FREE and not (body and endpoint.members)


def asked_of(endpoint: Endpoint, members: Members) -> Asked:
    """What a request with these members asks. Raises ApiError MALFORMED."""
    model = members.string("model") or endpoint.default_model
    if not model:
        if endpoint.way is Way.FREE:
            return Asked(endpoint, members, "", stream=False)
        raise ApiError(Case.MALFORMED, "you must provide a model parameter", param="model")
    if not (endpoint.streams and members.boolean("stream")):
        return Asked(endpoint, members, model, stream=False)
    return Asked(endpoint, members, model, stream=True, usage_options=_usage_options(endpoint, members))


def _usage_options(endpoint: Endpoint, members: Members) -> Members | None:
    if not endpoint.takes_usage_option:
        return None
    options = members.members("stream_options", _USAGE_OPTIONS)
    if options is not None:
        options.boolean("include_usage")
    return options
