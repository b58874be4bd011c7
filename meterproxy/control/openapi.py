"""The OpenAPI document: made from the route table, the models that validate and answer, and the data plane's table."""

import re
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from meterproxy import __version__
from meterproxy.control.access import Permission, is_of_organization
from meterproxy.control.api import ORGANIZATION
from meterproxy.control.chapters import CHAPTERS, chapter_of
from meterproxy.control.route import Route
from meterproxy.errors import Case
from meterproxy.proxy.endpoints import Endpoint, Way

_PLACE: Final = re.compile(r"\{([a-z_]+)\}")
_ALWAYS: Final = (Case.UNAVAILABLE, Case.OVERLOADED)
_OF_DATA_PLANE: Final = (
    *_ALWAYS, Case.MALFORMED, Case.KEY_INVALID, Case.PERMISSION_DENIED, Case.NOT_FOUND, Case.CREDIT_SPENT,
    Case.UPSTREAM_UNREACHABLE, Case.UPSTREAM_TIMEOUT,
)  # fmt: skip
_DONE: Final = {
    Way.METERED: "Held, forwarded, and charged by what it used",
    Way.FREE: "Forwarded; it costs nothing",
    Way.OURS: "Answered here: what the key may use and has a price",
}
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


def document(routes: Iterable[Route], endpoints: Iterable[Endpoint] = ()) -> dict[str, Any]:
    """The document of all routes that are not pages, and of the data plane's endpoints (OpenAPI 3.1)."""
    told = [route for route in routes if not route.is_page]
    schemas, components = _schemas(told)
    paths: dict[str, dict[str, Any]] = {}
    for route in told:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    for endpoint in endpoints:
        paths.setdefault(endpoint.template, {})[endpoint.method.lower()] = _of_data_plane(endpoint)
    told_of = {operation["tags"][0] for methods in paths.values() for operation in methods.values()}
    return {
        "openapi": "3.1.0",
        "info": {"title": "meterproxy", "version": __version__},
        "tags": [
            {"name": chapter.name, "description": chapter.description}
            for chapter in CHAPTERS
            if chapter.name in told_of
        ],
        "paths": paths,
        "components": {
            "schemas": {**components, "Error": _ERROR},
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "an access token, a key, or the admin token",
                }
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
        "tags": [chapter_of(route.path)],
        "parameters": list(_parameters(route)),
        "responses": {str(route.status): _success(route, schemas), **_refusals(route)},
    }
    if route.permission is not Permission.OPEN:
        operation["security"] = [{"bearer": []}]
    if route.body is not None:
        content = {"application/json": {"schema": schemas[route.body, "validation"]}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _of_data_plane(endpoint: Endpoint) -> dict[str, Any]:
    """An endpoint whose bodies are OpenAI's: what is ours of it is where it is, what it costs, and its errors."""
    answer = {"application/json": {"schema": {"type": "object"}}}
    if endpoint.streams:
        answer["text/event-stream"] = {"schema": {"type": "string"}}
    statuses = sorted({case.status for case in _OF_DATA_PLANE})
    operation: dict[str, Any] = {
        "summary": f"{_DONE[endpoint.way]} (operation {endpoint.operation})",
        "description": "As OpenAI documents it.",
        "tags": [chapter_of(endpoint.template)],
        "security": [{"bearer": []}],
        "parameters": [
            *(_named(name, "path") for name in _PLACE.findall(endpoint.template)),
            *(_named(name, "query") for name in sorted(endpoint.query)),
        ],
        "responses": {
            "200": {"description": "As OpenAI answers", "content": answer},
            **{str(status): _error(status) for status in statuses},
        },
    }
    if endpoint.members:
        content = {"application/json": {"schema": {"type": "object"}}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _named(name: str, place: str) -> dict[str, Any]:
    return {"name": name, "in": place, "required": place == "path", "schema": {"type": "string"}}


def _parameters(route: Route) -> Iterator[dict[str, Any]]:
    for name in _PLACE.findall(route.path):
        yield _named(name, "path")
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
    return {str(status): _error(status) for status in sorted({case.status for case in cases} - {route.status})}


def _error(status: int) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {"description": HTTPStatus(status).phrase, "content": content}
