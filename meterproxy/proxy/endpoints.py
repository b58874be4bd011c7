"""Endpoints: one row per path that the data plane serves; everything that differs between them is in the row.

Rules
-----
- A path without a row is refused, never passed on.
- The provider's path is built from the row, never from the client's bytes.
- `members` names every member of the body that is read anywhere; what is not named cannot be read or changed.
- How an operation is bounded is its row in `core.bound.OPERATION_BOUNDS`, how its usage is read its row in
  `proxy.usage_shapes.SHAPES`.
"""

from dataclasses import dataclass
from typing import Final

from meterproxy.core.bound import ModelFacts
from meterproxy.errors import ApiError, Case
from meterproxy.proxy.paths import Match, Paths
from meterproxy.proxy.request_facts import members_read

DATA_PLANE: Final = "/v1"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What is done with the requests of one method and path.

    Args:
        method: in upper case.
        template: the path as the client asks for it, ids as `{name}`.
        operation: the glossary's name of what is asked.
        members: the members of the body that are read; none where nothing is forwarded.
        streams: whether the client may ask for a stream.
        maximum: the member that limits an answer's tokens, None where answers have no length.
        reasoning_maximum: the same for models that think before they answer.
    """

    method: str
    template: str
    operation: str
    members: frozenset[str] = frozenset()
    streams: bool = False
    maximum: str | None = None
    reasoning_maximum: str | None = None

    @property
    def upstream_template(self) -> str:
        """The path below a provider's base URL."""
        return self.template.removeprefix(DATA_PLANE)

    def maximum_for(self, facts: ModelFacts) -> str | None:
        """The member by which this model's answers can be limited."""
        return self.reasoning_maximum if facts.reasoning and self.reasoning_maximum else self.maximum


ENDPOINTS: Final = (
    Endpoint(
        "POST",
        "/v1/chat/completions",
        "chat",
        members=members_read("chat"),
        streams=True,
        maximum="max_tokens",
        reasoning_maximum="max_completion_tokens",
    ),
    Endpoint(
        "POST",
        "/v1/completions",
        "completion",
        members=members_read("completion"),
        streams=True,
        maximum="max_tokens",
    ),
    Endpoint("POST", "/v1/embeddings", "embedding", members=members_read("embedding")),
    Endpoint("GET", "/v1/models", "model"),
    Endpoint("GET", "/v1/models/{model}", "model"),
)

Rows = dict[str, Endpoint]


def _by_template() -> dict[str, Rows]:
    rows: dict[str, Rows] = {}
    for endpoint in ENDPOINTS:
        rows.setdefault(endpoint.template, {})[endpoint.method] = endpoint
        if endpoint.method == "GET":
            rows[endpoint.template]["HEAD"] = endpoint
    return rows


_PATHS: Final = Paths(_by_template().items())


def find_endpoint(method: str, target: str) -> Match[Endpoint]:
    """The row for a request's method and raw target, with the ids in its path.

    Raises:
        ApiError: PATH_UNKNOWN, METHOD_NOT_ALLOWED.
    """
    path = target.partition("?")[0]
    match = _PATHS.match(path)
    if match is None:
        raise ApiError(Case.PATH_UNKNOWN, f"Unknown request URL: {method} {_excerpt(path)}.")
    endpoint = match.route.get(method)
    if endpoint is None:
        allowed = ", ".join(sorted(match.route))
        raise ApiError(
            Case.METHOD_NOT_ALLOWED, f"Not allowed to {method} on {_excerpt(path)}.", headers={"Allow": allowed}
        )
    return Match(endpoint, match.ids)


def _excerpt(path: str) -> str:
    """A path as it may be shown in an error: short, printable ASCII."""
    return path[:200].encode("ascii", "replace").decode() if path.isprintable() else "(unprintable)"
