"""The OpenAPI document, made from the rows of the route table and the models that validate and answer."""

import re
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from meterproxy import __version__
from meterproxy.control.access import Permission, is_of_organization
from meterproxy.control.api import ORGANIZATION
from meterproxy.control.route import Route
from meterproxy.errors import Case

_PLACE: Final = re.compile(r"\{([a-z_]+)\}")
_ALWAYS: Final = (Case.UNAVAILABLE, Case.OVERLOADED)
_ERROR: Final = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def document(routes: Iterable[Route]) -> dict[str, Any]:
    """The document of all routes that are not pages (OpenAPI 3.1)."""
    told = [route for route in routes if not route.is_page]
    schemas, components = _schemas(told)
    paths: dict[str, dict[str, Any]] = {}
    for route in told:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "meterproxy", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": {**components, "Error": _ERROR},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "an access token, a key, or admin token"}
            },
        },
    }


_Schemas = dict[tuple[type[BaseModel], JsonSchemaMode], dict[str, Any]]


def _schemas(routes: list[Route]) -> tuple[_Schemas, dict[str, Any]]:
    wanted: list[tuple[type[BaseModel], JsonSchemaMode]] = []
    for route in routes:
        for model, mode in ((route.body, "validation"), (route.answer, "serialization")):
            if model is not None and (model, mode) not in wanted:
                wanted.append((model, mode))  # type: ignore[arg-type]
    schemas, definitions = models_json_schema(wanted, ref_template="#/components/schemas/{model}")
    return dict(schemas), definitions.get("$defs", {})  # type: ignore[arg-type]


def _operation(route: Route, schemas: _Schemas) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": route.summary,
        "description": f"Needs: {route.permission.value}.",
        "tags": [_tag(route.path)],
        "parameters": list(_parameters(route)),
        "responses": {str(route.status): _success(route, schemas), **_refusals(route)},
    }
    if route.permission is not Permission.OPEN:
        operation["security"] = [{"bearer": []}]
    if route.body is not None:
        content = {"application/json": {"schema": schemas[route.body, "validation"]}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _tag(path: str) -> str:
    parts = [part for part in path.split("/") if part and not part.startswith("{")]
    return parts[1] if len(parts) > 1 and parts[0] in {"api", "admin", "v1"} else parts[0] if parts else "pages"


def _parameters(route: Route) -> Iterator[dict[str, Any]]:
    for name in _PLACE.findall(route.path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
    schema = route.query.model_json_schema(mode="validation")
    for name, member in schema.get("properties", {}).items():
        yield {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", ()),
            "schema": {**member, **({"$defs": schema["$defs"]} if "$defs" in schema and "$ref" in str(member) else {})},
        }
    if is_of_organization(route.permission) and not route.names_organization:
        yield {"name": ORGANIZATION, "in": "query", "required": False, "schema": {"type": "string", "format": "uuid"}}


def _success(route: Route, schemas: _Schemas) -> dict[str, Any]:
    told: dict[str, Any] = {"description": route.summary}
    if route.answer is not None:
        told["content"] = {"application/json": {"schema": schemas[route.answer, "serialization"]}}
    for media in route.media:
        schema = {"type": ["object", "array"]} if media == "application/json" else {"type": "string"}
        told.setdefault("content", {}).setdefault(media, {"schema": schema})
    return told


def _refusals(route: Route) -> dict[str, Any]:
    cases = {*_ALWAYS, Case.MALFORMED, *route.refusals}
    if route.permission is not Permission.OPEN:
        cases |= {Case.NOT_SIGNED_IN, Case.PERMISSION_DENIED}
    if route.body is not None:
        cases |= {Case.TOO_LARGE, Case.REQUEST_TIMEOUT}
    if is_of_organization(route.permission) or "{" in route.path or route.body is not None:
        cases.add(Case.NOT_FOUND)
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    statuses = sorted({case.status for case in cases} - {route.status})
    return {str(status): {"description": HTTPStatus(status).phrase, "content": error} for status in statuses}
