"""Forms: what a browser sends of one, read into the model that the API reads of JSON.

A field that was left empty is not there. Lists are written with commas or line ends between, tables as lines of `name:
value`, where nothing behind the colon is null, and switches are there or not. What is within a member is a field of its
own, `member.within`. Amounts and numbers may be written as pages show them: "$10,000.00", "1,000". An amount with
commas has its cents, as "5,000" is five dollars where commas are decimal.
"""

import re
import types
from collections.abc import Mapping
from typing import Annotated, Any, Final, TypeVar, Union, get_args, get_origin
from urllib.parse import parse_qsl

from pydantic import BaseModel, BeforeValidator, StrictBool, ValidationError

from meterproxy.control.faults import malformed
from meterproxy.errors import ApiError, Case

T = TypeVar("T", bound=BaseModel)

CSRF: Final = "csrf"
MOST_FIELDS: Final = 200
MOST_DIGITS: Final = 20


_GROUPED_AMOUNT: Final = re.compile(r"\$?(\d{1,3}(?:,\d{3})+\.\d{2,9})|\$(\d+(?:\.\d{1,9})?)", re.ASCII)
_GROUPED_NUMBER: Final = re.compile(r"\d{1,3}(?:,\d{3})+", re.ASCII)


class _Numbers(list[int]):
    """Stands for a list of numbers."""


class _Amount(str):
    """Stands for an amount of money, which is read from text."""

    __slots__ = ()


def fields(body: bytes) -> dict[str, str]:
    """The fields of a form by name; of several the last. Raises ApiError MALFORMED."""
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS, errors="strict")
    except (UnicodeDecodeError, ValueError) as error:
        raise ApiError(Case.MALFORMED, "The form could not be read.") from error
    return {name: value.replace("\r\n", "\n") for name, value in pairs}


def read(kind: type[T], given: Mapping[str, str]) -> T:
    """Validate a form's fields. Raises ApiError MALFORMED, which names the first field at fault."""
    content = _content(kind, {name: text for name, text in given.items() if name != CSRF})
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise malformed(error, "The form") from error


def amount_of(text: str) -> str:
    """An amount as the API reads it; what is none stays as it is."""
    shown = _GROUPED_AMOUNT.fullmatch(text.strip())
    return (shown[1] or shown[2]).replace(",", "") if shown else text.strip()


def number_of(text: str) -> int | str:
    """A whole number; what is none stays as it is."""
    plain = text.strip()
    plain = plain.replace(",", "") if _GROUPED_NUMBER.fullmatch(plain) else plain
    return int(plain) if plain.removeprefix("-").isdecimal() and len(plain) <= MOST_DIGITS else text


def instant_of(text: str) -> str:
    """An instant as it was given; a day, as browsers send it, begins in UTC."""
    return f"{text}T00:00:00Z" if len(text) == len("2026-01-31") else text


def _content(kind: type[BaseModel], given: Mapping[str, str]) -> dict[str, Any]:
    """A form's fields as JSON would have them."""
    content: dict[str, Any] = {}
    parts: dict[str, dict[str, str]] = {}
    for name, text in given.items():
        whole, dot, part = name.partition(".")
        member = kind.model_fields.get(name)
        if dot and _model_at(kind, whole) is not None:
            parts.setdefault(whole, {})[part] = text
        elif member is None:
            content[name] = text
        elif text or member.is_required():
            content[name] = _converted(text, _kind_of(member.annotation, member.metadata))
    for whole, within in parts.items():
        if (model := _model_at(kind, whole)) is not None:
            content[whole] = _content(model, within)
    return content


def _model_at(kind: type[BaseModel], name: str) -> type[BaseModel] | None:
    """The model of a member that has members of its own."""
    member = kind.model_fields.get(name)
    of = None if member is None else member.annotation
    return of if isinstance(of, type) and issubclass(of, BaseModel) else None


def _kind_of(annotation: Any, metadata: list[Any]) -> type:
    """Whether a member is a list (of numbers or of texts), a switch, a number or a text."""
    if any(getattr(part, "strict", None) for part in metadata) and annotation is bool:
        return bool
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kind_of(get_args(annotation)[0], list(get_args(annotation)[1:]))
    if origin in {Union, types.UnionType}:
        kinds = {_kind_of(part, []) for part in get_args(annotation) if part is not type(None)}
        return kinds.pop() if len(kinds) == 1 else str
    if origin in {tuple, list}:
        return _Numbers if _kind_of(get_args(annotation)[0], []) is int else list
    if origin is dict:
        return dict
    if annotation in {bool, StrictBool}:
        return bool
    if any(isinstance(part, BeforeValidator) for part in metadata):
        return _Amount
    return int if annotation is int else str


def _converted(text: str, kind: type) -> Any:
    if issubclass(kind, list):
        parts = [part.strip() for part in text.replace("\n", ",").split(",") if part.strip()]
        return [_converted(part, int) for part in parts] if kind is _Numbers else parts
    if kind is dict:
        return table(text)
    if kind is bool:
        return text not in {"", "0", "false", "off"}
    if kind is int:
        return number_of(text)
    return amount_of(text) if kind is _Amount else text


def table(text: str) -> dict[str, str | None]:
    """Lines of `name: value` by name. Raises ApiError MALFORMED, which repeats nothing: it may be a secret."""
    found: dict[str, str | None] = {}
    for number, line in enumerate(text.split("\n"), 1):
        name, colon, value = (part.strip() for part in line.partition(":"))
        if not name and not colon:
            continue
        if not name or not colon:
            raise ApiError(Case.MALFORMED, f"Line {number} must be written as `name: value`.")
        if name in found:
            raise ApiError(Case.MALFORMED, f"Line {number} names what a line before it names.")
        found[name] = value or None
    return found
