"""What a request's head says: a value that knows nothing of the connection, nor of the one request it came with.

Rules
-----
- A head is never changed once it was read: a connection hands the same one out again for the next request whose head
  reads the same. What differs from one such request to the next, its body's length, is not part of it: neither
  `raw_headers` nor `headers` have a `Content-Length`.
- The slots below `For those who answer` are theirs: what follows from a head alone may be kept there, and is then there
  for every request with this head. What also depends on anything else (time, a policy, the body) must not be.
- There is one way to read a head, and it refuses whatever two readers could understand differently.
"""

import re
from typing import TYPE_CHECKING, Final

from multidict import CIMultiDict, CIMultiDictProxy

from meterproxy.errors import ApiError, Case
from meterproxy.proxy.headers import Attribution, Header

if TYPE_CHECKING:
    from meterproxy.proxy.endpoints import Endpoint
    from meterproxy.proxy.upstream import ProviderHead

NO_LENGTH: Final = -1
"""What is told as the length of a body that comes in chunks."""

_ABSOLUTE: Final = re.compile(r"https?://[^/?#]+", re.IGNORECASE)
_HOST: Final = re.compile(rb"[A-Za-z0-9._~%!$&'()*+,;=:\[\]-]*")
_LENGTH: Final = re.compile(rb"[0-9]{1,15}")


class RequestHead:
    """One head, understood.

    Attributes:
        target: what was asked for, undecoded; without scheme and authority where it came with them.
        raw_headers: all headers but `Content-Length`, in order, names as they were spelled.
        http_1_1: whether it came over HTTP/1.1; else it was HTTP/1.0.
        closes: whether the client wants the connection to end with the answer, or must.
        chunked: whether the body comes in chunks.
        upgrades: whether the client offers to go on in another protocol; nobody has to take that.
        expects_continue: whether the client waits for `100 Continue` before it sends the body.
        idempotency_keys: what came as `Idempotency-Key`, unjudged; nearly always nothing.

    For those who answer (None until one of them has filled it in):
        coded: whether the body has a content coding.
        matched: the endpoint that method and target lead to, with the ids in its path.
        digest: of the secret that the request presents.
        attribution: the conversation and tags that it names.
        forwarded: the head of the request that goes to the provider.
    """

    __slots__ = (
        "_headers",
        "attribution",
        "chunked",
        "closes",
        "coded",
        "digest",
        "expects_continue",
        "forwarded",
        "http_1_1",
        "idempotency_keys",
        "matched",
        "method",
        "raw_headers",
        "target",
        "upgrades",
    )

    def __init__(
        self,
        method: str,
        target: str,
        raw_headers: tuple[Header, ...],
        *,
        http_1_1: bool,
        closes: bool,
        chunked: bool,
        expects_continue: bool,
        upgrades: bool,
        idempotency_keys: tuple[bytes, ...],
    ) -> None:
        self.method = method
        self.target = target
        self.raw_headers = raw_headers
        self.http_1_1 = http_1_1
        self.closes = closes
        self.chunked = chunked
        self.expects_continue = expects_continue
        self.upgrades = upgrades
        self.idempotency_keys = idempotency_keys
        self._headers: CIMultiDictProxy[str] | None = None
        self.matched: tuple[Endpoint, tuple[str, ...]] | None = None
        self.coded: bool | None = None
        self.digest: bytes | None = None
        self.attribution: Attribution | None = None
        self.forwarded: ProviderHead | None = None

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        """The headers by name, in any case."""
        if self._headers is None:
            self._headers = CIMultiDictProxy(
                CIMultiDict(
                    [
                        (name.decode("ascii"), value.decode("utf-8", "surrogateescape"))
                        for name, value in self.raw_headers
                    ]
                )
            )
        return self._headers


def understand(method: str, target: str, fields: list[Header], *, http_1_1: bool) -> tuple[RequestHead, int]:
    """Judge what a head consists of; the head, and the length of its body or NO_LENGTH.

    Args:
        fields: names are tokens, values have no control characters and no blanks around them.

    Raises:
        ApiError: MALFORMED, METHOD_NOT_ALLOWED for CONNECT.
    """
    if method == "CONNECT":
        raise ApiError(Case.METHOD_NOT_ALLOWED, "CONNECT is not supported.")
    special, others = _sorted(fields)
    _check_host(special[b"host"], http_1_1=http_1_1)
    chunked, length = _framing(special, http_1_1=http_1_1)
    connection = _tokens(special[b"connection"])
    expect = [value.lower() for value in special[b"expect"]]
    head = RequestHead(
        method,
        _in_origin_form(method, target),
        others,
        http_1_1=http_1_1,
        closes=not http_1_1 or b"close" in connection,
        chunked=chunked,
        expects_continue=http_1_1 and expect == [b"100-continue"],
        upgrades=http_1_1 and b"upgrade" in connection,
        idempotency_keys=tuple(special[b"idempotency-key"]),
    )
    return head, length


def _sorted(fields: list[Header]) -> tuple[dict[bytes, list[bytes]], tuple[Header, ...]]:
    """The values of those headers that decide how a request is read or answered, and all headers but its length."""
    special: dict[bytes, list[bytes]] = {
        b"host": [],
        b"content-length": [],
        b"transfer-encoding": [],
        b"connection": [],
        b"expect": [],
        b"idempotency-key": [],
    }
    others = []
    for field in fields:
        name = field[0].lower()
        values = special.get(name)
        if values is not None:
            values.append(field[1])
        if name != b"content-length":
            others.append(field)
    return special, tuple(others)


def _check_host(hosts: list[bytes], *, http_1_1: bool) -> None:
    if len(hosts) > 1 or (http_1_1 and not hosts):
        raise malformed("A request over HTTP/1.1 needs exactly one Host header.")
    if hosts and _HOST.fullmatch(hosts[0]) is None:
        raise malformed("The Host header is not valid.")


def _framing(special: dict[bytes, list[bytes]], *, http_1_1: bool) -> tuple[bool, int]:
    """Whether the body comes in chunks, and its length."""
    codings, lengths = special[b"transfer-encoding"], special[b"content-length"]
    if codings:
        if codings != [b"chunked"] or not http_1_1:
            raise malformed("No Transfer-Encoding but chunked is supported.")
        if lengths:
            raise malformed("Content-Length and Transfer-Encoding exclude each other.")
        return True, NO_LENGTH
    if not lengths:
        return False, 0
    if len(lengths) > 1 or _LENGTH.fullmatch(lengths[0]) is None:
        raise malformed("The Content-Length header is not valid.")
    return False, int(lengths[0])


def _in_origin_form(method: str, target: str) -> str:
    """The target as if it had been asked for at the host itself: without scheme and authority."""
    if target.startswith("/") or (target == "*" and method == "OPTIONS"):
        return target
    authority = _ABSOLUTE.match(target)
    if authority is None:
        raise malformed("The request's target is not valid.")
    path = target[authority.end() :]
    return path if path.startswith("/") else "/" + path


def _tokens(values: list[bytes]) -> set[bytes]:
    return {token.strip() for value in values for token in value.lower().split(b",")}


def malformed(message: str = "The HTTP request could not be understood.") -> ApiError:
    """The refusal of a request that is no proper HTTP."""
    return ApiError(Case.MALFORMED, message)
