"""Errors: one tree for the whole package, and the table of answers a client may get from us.

A class of its own exists only where a caller acts differently. What a client sees is an `ApiError`: a row of `Case`
plus a message for people; `ApiError.body` is the only place where an error's JSON is built.
"""

from enum import Enum

import orjson


class MeterproxyError(Exception):
    """The root of every error that this package raises on purpose."""


class ConfigError(MeterproxyError):
    """The configuration cannot be used; the message names every problem with its path, one a line."""


class StartFailed(MeterproxyError):
    """A part of this host could not be started; the message is one line that says what to do."""


class StoreUnavailable(MeterproxyError):
    """PostgreSQL cannot be reached or refused to serve for now; the caller may try again later."""


class LendingPaused(StoreUnavailable):
    """Nobody is lent to right now: an operator says so, or PostgreSQL may have forgotten what it had lent."""


class Forgotten(StoreUnavailable):
    """PostgreSQL may have forgotten what it confirmed: present what this session was lent, then ask again."""


class NoExposure(MeterproxyError):
    """The account's exposure has no room for what a hold would leave unheld: hold all of it."""


class JournalFull(MeterproxyError):
    """The journal has no room for another hold; nothing was written."""


class JournalFailed(MeterproxyError):
    """The journal's volume refused a write or an fsync; the record stays in memory for settle."""


_PLAIN: dict[str, str] = {}
_FINAL = {"x-should-retry": "false"}
_SOON = {"Retry-After": "1"}


class SessionOver(MeterproxyError):
    """This worker session was ended by somebody else: it must not spend any more."""


class ProgressMoved(MeterproxyError):
    """The journal's progress in PostgreSQL is not where the settler thought; carries where it is."""

    def __init__(self, position: int, open_from: int) -> None:
        super().__init__(f"the journal's progress stands at {position}")
        self.position = position
        self.open_from = open_from


class Unbookable(MeterproxyError):
    """PostgreSQL refuses this batch as it is, and will refuse it again."""


class Case(Enum):
    """Every answer of our own making that is not a success: status, type, code, and headers that always go with it."""

    KEY_MISSING = (401, "invalid_request_error", None, _PLAIN)
    KEY_INVALID = (401, "invalid_request_error", "invalid_api_key", _PLAIN)
    PERMISSION_DENIED = (403, "invalid_request_error", "permission_denied", _PLAIN)
    ACCOUNT_FROZEN = (403, "invalid_request_error", "account_frozen", _PLAIN)
    CREDIT_SPENT = (429, "insufficient_quota", "insufficient_quota", _FINAL)
    BUDGET_SPENT = (429, "insufficient_quota", "budget_exceeded", _FINAL)
    CREDIT_HELD = (429, "requests", "rate_limit_exceeded", _SOON)
    REQUESTS_LIMITED = (429, "requests", "rate_limit_exceeded", _PLAIN)
    TOKENS_LIMITED = (429, "tokens", "rate_limit_exceeded", _PLAIN)
    MODEL_NOT_FOUND = (404, "invalid_request_error", "model_not_found", _PLAIN)
    MODEL_NOT_PRICED = (404, "invalid_request_error", "model_not_priced", _PLAIN)
    MALFORMED = (400, "invalid_request_error", None, _PLAIN)
    REQUEST_TIMEOUT = (408, "invalid_request_error", "request_timeout", _PLAIN)
    TOO_LARGE = (413, "invalid_request_error", "request_too_large", _PLAIN)
    ENCODING_UNSUPPORTED = (415, "invalid_request_error", None, _PLAIN)
    PATH_UNKNOWN = (404, "invalid_request_error", "unknown_url", _PLAIN)
    NOT_FOUND = (404, "invalid_request_error", "not_found", _PLAIN)
    RESOURCE_NOT_FOUND = (404, "invalid_request_error", None, _PLAIN)
    RESOURCE_BUSY = (409, "invalid_request_error", None, _PLAIN)
    METHOD_NOT_ALLOWED = (405, "invalid_request_error", "method_not_supported", _PLAIN)
    CONFLICT = (409, "invalid_request_error", "conflict", _PLAIN)
    KEY_RUNNING = (409, "invalid_request_error", "conflict", _SOON)
    ANSWER_UNKEPT = (409, "invalid_request_error", "conflict", _FINAL)
    NOT_SIGNED_IN = (401, "invalid_request_error", "not_signed_in", _PLAIN)
    WRONG_PASSWORD = (401, "invalid_request_error", "wrong_password", _PLAIN)
    SIGN_IN_SLOWED = (429, "requests", "sign_in_slowed", _PLAIN)
    ADMIN_TOKEN_INVALID = (401, "invalid_request_error", "invalid_admin_token", _PLAIN)
    UPSTREAM_UNREACHABLE = (502, "server_error", "upstream_unreachable", _PLAIN)
    UPSTREAM_TIMEOUT = (504, "server_error", "upstream_timeout", _PLAIN)
    UPSTREAM_ACCOUNT = (503, "server_error", "upstream_account", _PLAIN)
    UNAVAILABLE = (503, "server_error", "service_unavailable", _SOON)
    READ_ONLY = (503, "server_error", "read_only", {"Retry-After": "60", **_FINAL})
    HOST_DRAINED = (503, "server_error", "host_drained", _SOON)
    OVERLOADED = (503, "server_error", "overloaded", _SOON)
    INTERNAL = (500, "server_error", "internal_error", _PLAIN)

    def __init__(self, status: int, type_: str, code: str | None, headers: dict[str, str]) -> None:
        self.status = status
        self.type = type_
        self.code = code
        self.headers = headers


class ApiError(MeterproxyError):
    """A refusal or failure that a client gets as an answer in OpenAI's shape.

    Args:
        case: the row of the table; its name in lower case is the metrics' `reason`.
        message: one sentence for people; never carries secrets or the client's own bytes beyond a short, safe excerpt.
        param: the request member at fault, if one is.
        headers: added to the case's own.
    """

    def __init__(
        self, case: Case, message: str, *, param: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.case = case
        self.message = message
        self.param = param
        self.status = case.status
        self.headers = {**case.headers, **(headers or {})}

    def again(self) -> "ApiError":
        """The same to be raised by somebody who keeps this one: what was raised has the frames that it went through."""
        return ApiError(self.case, self.message, param=self.param, headers=self.headers)

    @property
    def reason(self) -> str:
        """The name under which metrics count this refusal."""
        return self.case.name.lower()

    def body(self) -> bytes:
        """The JSON body that OpenAI's SDKs expect: all four members present."""
        return error_body(self.message, self.case.type, self.param, self.case.code)


def error_body(message: str, type_: str, param: str | None, code: str | None) -> bytes:
    """Build the one error envelope: `{"error": {"message", "type", "param", "code"}}`."""
    return orjson.dumps({"error": {"message": message, "type": type_, "param": param, "code": code}})
