"""Faults: what is wrong with a body, a query or a form, in our own sentences, as an error that names the member."""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from meterproxy.errors import ApiError, Case

EXCERPT: Final = 200
_WHOLE_NUMBER: Final = "must be a whole number"
_DAY: Final = "must be a day, such as 2030-01-31"
_INSTANT: Final = "must be an instant with its time zone, such as 2030-01-31T00:00:00Z"
_SENTENCES: Final[Mapping[str, str]] = {
    "missing": "must be given",
    "extra_forbidden": "is not known here",
    "none_required": "cannot be set",
    "int_type": _WHOLE_NUMBER,
    "int_parsing": _WHOLE_NUMBER,
    "int_parsing_size": "is too large",
    "int_from_float": _WHOLE_NUMBER,
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "string_type": "must be text",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "is not written as it should be",
    "too_short": "must have at least {min_length} of them",
    "too_long": "must have at most {max_length} of them",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "uuid_type": "is not an id",
    "uuid_parsing": "is not an id",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "date_type": _DAY,
    "date_parsing": _DAY,
    "date_from_datetime_parsing": _DAY,
    "date_from_datetime_inexact": _DAY,
    "datetime_type": _INSTANT,
    "datetime_parsing": _INSTANT,
    "datetime_from_date_parsing": _INSTANT,
    "timezone_aware": _INSTANT,
}
"""What pydantic finds, by its names for it."""
_OF_A_NAME: Final = "[key]"
"""What pydantic puts behind a member whose name is at fault, not its value."""


def malformed(error: ValidationError, whole: str = "The query") -> ApiError:
    """The first fault as an ApiError MALFORMED; `whole` names what is at fault where no member is."""
    problem = error.errors(include_url=False, include_input=False)[0]
    param = _shown(".".join(str(part) for part in problem["loc"] if part != _OF_A_NAME)) or None
    text = _shown(sentence(problem["type"], problem["msg"], problem.get("ctx") or {}))
    return ApiError(Case.MALFORMED, f"{param or whole}: {text.removesuffix('.')}.", param=param)


def sentence(type_: str, text: str, context: Mapping[str, Any]) -> str:
    """What is wrong with something, to be read after its name."""
    if type_ in {"string_too_short", "too_short"} and context.get("min_length") == 1:
        return "must not be empty"
    if type_ in {"too_short", "too_long"} and context.get("field_type") == "Value":
        type_ = f"string_{type_}"  # of a secret
    known = _SENTENCES.get(type_)
    if known is None:
        return text.removeprefix("Value error, ").replace("Input should be", "must be")
    told = {name: str(value).replace("'", "") for name, value in context.items()}
    return known.format_map(told)


def _shown(text: str) -> str:
    """A text that may repeat what a client wrote, as it may stand in an error."""
    return "".join(letter for letter in text[:EXCERPT] if letter.isprintable())
