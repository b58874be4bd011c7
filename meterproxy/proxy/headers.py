"""Headers: which of a client's reach the provider, which of a provider's reach the client.

Rules
-----
- Headers are raw pairs in their order; names compare without case, what passes keeps the spelling it came in.
- Hop-by-hop headers stop here, those that `Connection` names included.
- To the provider go no credentials of ours or the client's, no cookies, nothing that tells who the client is or where
  it came from, and nothing of framing: that is the provider client's.
- To the client go no headers of the provider's edge, account or rate limits.
- `x-meterproxy-*` is ours in both directions.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import compress
from typing import Final, NamedTuple

from meterproxy.errors import ApiError, Case

Header = tuple[bytes, bytes]

CONVERSATION: Final = "X-Meterproxy-Conversation"
TAGS: Final = "X-Meterproxy-Tags"
NAMES_REMEMBERED: Final = 1024
CONVERSATION_BYTES: Final = 128
TAGS_MAXIMUM: Final = 10
TAG_BYTES: Final = 128
"""Bytes of a tag's name and of its value, each."""

_HOP_BY_HOP: Final = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-authentication-info proxy-connection te"
    b" trailer trailers transfer-encoding upgrade http2-settings".split()
)
_TO_PROVIDER_DROPPED: Final = _HOP_BY_HOP | frozenset(
    b"host content-length expect authorization x-api-key api-key cookie cookie2 openai-organization openai-project"
    b" forwarded via x-real-ip true-client-ip x-client-ip x-cluster-client-ip fastly-client-ip x-azure-clientip"
    b" x-envoy-external-address accept-encoding idempotency-key".split()
)
_TO_PROVIDER_PREFIXES: Final = (b"x-forwarded-", b"x-original-forwarded-", b"cf-", b"cdn-loop", b"x-meterproxy-")

_TO_CLIENT_DROPPED: Final = _HOP_BY_HOP | frozenset(
    b"content-length set-cookie set-cookie2 server via alt-svc strict-transport-security nel report-to"
    b" reporting-endpoints content-security-policy content-security-policy-report-only openai-organization"
    b" openai-project".split()
)
_TO_CLIENT_PREFIXES: Final = (b"access-control-", b"cf-", b"x-ratelimit-", b"x-meterproxy-")


class Attribution(NamedTuple):
    """What a request says it belongs to, for reports."""

    conversation: str | None = None
    tags: tuple[tuple[str, str], ...] = ()


def to_provider(
    raw: Sequence[Header], own: Iterable[Header], *, idempotency_key: bytes | None = None, keep_encoding: bool = False
) -> list[Header]:
    """The headers of a request to the provider.

    Args:
        raw: the client's headers.
        own: ours (the provider's credential, configured headers); they replace what the client sent by these names.
        idempotency_key: what goes on in place of the client's `Idempotency-Key`, already keyed by account.
        keep_encoding: pass the client's `Accept-Encoding` (contents that we do not read) instead of `identity`.
    """
    kept = list(own)
    replaced = {name.lower() for name, _ in kept}
    passed = _without_named_by_connection(raw, [header for header in raw if _may_go_up(header[0])])
    kept += [header for header in passed if header[0].lower() not in replaced]
    if keep_encoding:
        kept += [header for header in raw if header[0].lower() == b"accept-encoding"]
    else:
        kept.append((b"Accept-Encoding", b"identity"))
    if idempotency_key is not None:
        kept.append((b"Idempotency-Key", idempotency_key))
    return kept


def to_client(raw: Sequence[Header], fields: Mapping[bytes, bytes]) -> list[Header]:
    """The headers of a provider's answer that its client gets; framing is the answer's writer's.

    `fields` are the same by their names in lower case.
    """
    if len(fields) == len(raw) and b"connection" not in fields:
        return list(compress(raw, _going_down(tuple(fields))))
    return _without_named_by_connection(raw, [header for header in raw if _may_go_down(header[0].lower())])


@lru_cache(maxsize=NAMES_REMEMBERED)
def _going_down(names: tuple[bytes, ...]) -> tuple[bool, ...]:
    """Which of these headers pass; a provider sends the same ones again and again."""
    return tuple(map(_may_go_down, names))


@lru_cache(maxsize=NAMES_REMEMBERED)
def _may_go_up(name: bytes) -> bool:
    name = name.lower()
    return name not in _TO_PROVIDER_DROPPED and not name.startswith(_TO_PROVIDER_PREFIXES)


def _may_go_down(name: bytes) -> bool:
    return name not in _TO_CLIENT_DROPPED and not name.startswith(_TO_CLIENT_PREFIXES)


def _without_named_by_connection(raw: Sequence[Header], kept: list[Header]) -> list[Header]:
    """What is kept without the headers that a `Connection` among the raw ones lists."""
    for name, value in raw:
        if len(name) == len(b"connection") and name.lower() == b"connection":
            listed = {token.strip() for token in value.lower().split(b",")}
            kept = [header for header in kept if header[0].lower() not in listed]
    return kept


def attribution(headers: Mapping[str, str]) -> Attribution:
    """Read `X-Meterproxy-Conversation` and `X-Meterproxy-Tags: a=b, c=d`.

    Raises:
        ApiError: MALFORMED where one of them is empty, too long, has unprintable characters, or a tag appears twice.
    """
    conversation, tags = headers.get(CONVERSATION), headers.get(TAGS)
    return Attribution(
        None if conversation is None else _label(conversation.strip(), CONVERSATION, CONVERSATION_BYTES),
        () if tags is None else _tags(tags),
    )


def _tags(value: str) -> tuple[tuple[str, str], ...]:
    tags: dict[str, str] = {}
    pairs = [pair for pair in (part.strip() for part in value.split(",")) if pair]
    if len(pairs) > TAGS_MAXIMUM:
        raise ApiError(Case.MALFORMED, f"'{TAGS}' may have at most {TAGS_MAXIMUM} tags.", param=TAGS)
    for pair in pairs:
        name, equals, text = (part.strip() for part in pair.partition("="))
        if not equals or name in tags:
            raise ApiError(Case.MALFORMED, f"'{TAGS}' must be of the form 'a=b, c=d', each name once.", param=TAGS)
        tags[_label(name, TAGS, TAG_BYTES)] = _label(text, TAGS, TAG_BYTES)
    return tuple(tags.items())


def _label(text: str, header: str, length_bytes: int) -> str:
    """Check a text from a header: printable, valid Unicode, 1…length bytes (as UTF-8)."""
    if not text.isprintable() or not 0 < len(text.encode("utf-8", "surrogateescape")) <= length_bytes:
        raise ApiError(Case.MALFORMED, f"'{header}' needs 1 to {length_bytes} bytes of printable text.", param=header)
    return text
