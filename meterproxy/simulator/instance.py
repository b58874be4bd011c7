"""Instance: a small JSON value that a JSON schema accepts, for tool arguments and structured answers.

Covers what OpenAI's strict mode allows: types and lists of types, properties, items, enum, const, anyOf/oneOf/allOf,
`$ref` into the document, lengths, bounds, multiples and the named formats. `pattern` is not solved.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from math import ceil
from typing import Any, Final

Schema = Mapping[str, Any]

_DEEP: Final = 6
"""From this depth on the shallowest branch is taken, so that recursive schemas end."""

_FORMATS: Final = {
    "date-time": "2026-01-02T03:04:05Z",
    "date": "2026-01-02",
    "time": "03:04:05Z",
    "duration": "P1D",
    "email": "someone@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uuid": "00000000-0000-4000-8000-000000000001",
    "uri": "https://example.com/",
}


def instance_of(schema: Schema, source: Iterator[str], *, root: Schema | None = None, depth: int = 0) -> Any:
    """Build a value that validates; `source` gives the words of free strings."""
    whole = schema if root is None else root
    chosen = _resolved(schema, whole, depth)
    if "const" in chosen:
        return chosen["const"]
    if chosen.get("enum"):
        return chosen["enum"][0]
    build = _BUILDERS.get(_type_of(chosen, depth), _null)
    return build(chosen, source, whole, depth)


def _resolved(schema: Schema, root: Schema, depth: int) -> Schema:
    """Follow references and pick a branch until what is left has a type."""
    current = dict(schema)
    for _ in range(32):
        if "$ref" in current:
            current = {**_target(root, current.pop("$ref")), **current}
        elif "allOf" in current:
            for part in current.pop("allOf"):
                current = {**current, **part}
        elif branches := current.pop("anyOf", None) or current.pop("oneOf", None):
            current = {**_branch(branches, depth), **current}
        else:
            break
    return current


def _target(root: Schema, reference: str) -> Schema:
    found: Any = root
    for step in reference.removeprefix("#").split("/")[1:]:
        found = found[step.replace("~1", "/").replace("~0", "~")]
    return found if isinstance(found, Mapping) else {}


def _branch(branches: list[Schema], depth: int) -> Schema:
    nulls = [branch for branch in branches if branch.get("type") == "null"]
    return nulls[0] if depth >= _DEEP and nulls else branches[0]


def _type_of(schema: Schema, depth: int) -> str:
    named = schema.get("type")
    if isinstance(named, list):
        return "null" if depth >= _DEEP and "null" in named else str(named[0])
    if named is None:
        return "object" if "properties" in schema else "array" if "items" in schema else "string"
    return str(named)


def _object(schema: Schema, source: Iterator[str], root: Schema, depth: int) -> dict[str, Any]:
    properties: Mapping[str, Schema] = schema.get("properties") or {}
    wanted = schema.get("required", list(properties) if depth < _DEEP else [])
    return {name: instance_of(properties.get(name, {}), source, root=root, depth=depth + 1) for name in wanted}


def _array(schema: Schema, source: Iterator[str], root: Schema, depth: int) -> list[Any]:
    least = int(schema.get("minItems", 0 if depth >= _DEEP else 1))
    most = int(schema.get("maxItems", max(least, 1)))
    items = schema.get("items") or {}
    return [instance_of(items, source, root=root, depth=depth + 1) for _ in range(min(least, most))]


def _string(schema: Schema, source: Iterator[str], _root: Schema, _depth: int) -> str:
    named = _FORMATS.get(str(schema.get("format")))
    if named is not None:
        return named
    least, most = int(schema.get("minLength", 0)), schema.get("maxLength")
    text = "".join(islice(source, 3)).strip(". ")
    while len(text) < least:
        text += next(source)
    return text if most is None else text[: int(most)]


def _number(schema: Schema, _source: Iterator[str], _root: Schema, _depth: int) -> Any:
    multiple = schema.get("multipleOf", 1)
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    least = schema.get("minimum", 0 if above is None else above)
    value = ceil(least / multiple) * multiple
    if value == above:
        value += multiple
    most = schema.get("maximum", None if below is None else below - multiple)
    return value if most is None or value <= most else most


def _boolean(_schema: Schema, _source: Iterator[str], _root: Schema, _depth: int) -> bool:
    return True


def _null(_schema: Schema, _source: Iterator[str], _root: Schema, _depth: int) -> None:
    return None


_BUILDERS: Final[Mapping[str, Callable[[Schema, Iterator[str], Schema, int], Any]]] = {
    "object": _object,
    "array": _array,
    "string": _string,
    "number": _number,
    "integer": _number,
    "boolean": _boolean,
    "null": _null,
}
