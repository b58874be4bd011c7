"""Refusals: the errors that OpenAI answers with, in its own words and shape."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from meterproxy.errors import MeterproxyError, error_body

_REQUEST: Final = "invalid_request_error"


class Refusal(MeterproxyError):
    """An error answer: status, `{"error": {message, type, param, code}}`, and headers of its own."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type_: str = _REQUEST,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type_
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def body(self) -> bytes:
        param = None if self.param is None else _unicode(self.param)
        return error_body(_unicode(self.message), self.type, param, self.code)


def _unicode(text: str) -> str:
    """A text that may quote a request, without lone surrogates: no JSON can say them."""
    return text.encode("utf-8", "replace").decode()


class Words(NamedTuple):
    """What OpenAI says with a status, or with a code."""

    type: str
    code: str | None
    message: str


BY_STATUS: Final[Mapping[int, Words]] = {
    400: Words(_REQUEST, None, "We could not understand your request."),
    401: Words(_REQUEST, "invalid_api_key", "Incorrect API key provided: sk-simul***ated."),
    402: Words("insufficient_quota", "billing_not_active", "Your account is not active, please check your billing."),
    403: Words(
        "request_forbidden", "unsupported_country_region_territory", "Country, region, or territory not supported"
    ),
    404: Words(_REQUEST, "model_not_found", "The model does not exist or you do not have access to it."),
    408: Words(_REQUEST, None, "Request timed out."),
    409: Words(_REQUEST, None, "The resource was changed by another request."),
    413: Words(_REQUEST, None, "The request is too large."),
    422: Words(_REQUEST, None, "The request was well-formed but could not be processed."),
    429: Words("requests", "rate_limit_exceeded", "Rate limit reached for requests. Please try again in 120ms."),
    500: Words("server_error", None, "The server had an error while processing your request. Sorry about that!"),
    502: Words("server_error", None, "Bad gateway."),
    503: Words("server_error", None, "The engine is currently overloaded, please try again later."),
    504: Words("server_error", None, "Gateway timeout."),
}
BY_CODE: Final[Mapping[str, Words]] = {
    "insufficient_quota": Words(
        "insufficient_quota",
        "insufficient_quota",
        "You exceeded your current quota, please check your plan and billing details.",
    ),
    "billing_hard_limit_reached": Words(_REQUEST, "billing_hard_limit_reached", "Billing hard limit has been reached."),
    "context_length_exceeded": Words(
        _REQUEST, "context_length_exceeded", "This model's maximum context length has been exceeded."
    ),
    "account_deactivated": Words(_REQUEST, "account_deactivated", "The associated account has been deactivated."),
}
_UNNAMED: Final = Words("server_error", None, "The simulated provider was told to fail.")


def simulated_refusal(status: int, code: str | None, *, param: str | None, retry_after: float | None) -> Refusal:
    """The refusal that OpenAI would send with this status, or rather with this code where it has words of its own."""
    words = BY_CODE.get(code or "") or BY_STATUS.get(status, _UNNAMED)
    headers = (
        {} if retry_after is None else {"retry-after": f"{retry_after:g}", "retry-after-ms": f"{retry_after * 1000:g}"}
    )
    return Refusal(status, words.message, type_=words.type, param=param, code=code or words.code, headers=headers)
