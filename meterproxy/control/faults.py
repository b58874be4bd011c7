"""Faults: what pydantic found wrong with a body or a query, as an error that names the member."""

from typing import Final

from pydantic import ValidationError

from meterproxy.errors import ApiError, Case

EXCERPT: Final = 200


def malformed(error: ValidationError, whole: str = "The query") -> ApiError:
    """The first fault as an ApiError MALFORMED; `whole` names what is at fault where no member is."""
    problem = error.errors(include_url=False, include_input=False)[0]
    param = _shown(".".join(str(part) for part in problem["loc"])) or None
    text = _shown(problem["msg"].removeprefix("Value error, "))
    return ApiError(Case.MALFORMED, f"{param or whole}: {text}", param=param)


def _shown(text: str) -> str:
    """A text that may repeat what a client wrote, as it may stand in an error."""
    return "".join(letter for letter in text[:EXCERPT] if letter.isprintable())
