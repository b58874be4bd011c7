"""The OpenAPI document says what the routes do."""

import re

import openapi_spec_validator

from meterproxy.control.chapters import CHAPTERS
from meterproxy.control.openapi import document
from meterproxy.control.routes import ROUTES
from meterproxy.proxy.endpoints import ENDPOINTS


def test_every_route_is_in_the_document() -> None:
    """With its summary, its permission, and what it answers."""
    paths = document(ROUTES)["paths"]
    for route in ROUTES:
        if not route.is_page:
            operation = paths[route.path][route.method.lower()]
            assert operation["summary"] == route.summary
            assert str(route.status) in operation["responses"]


def test_references_lead_somewhere() -> None:
    """Whatever is referred to is a component."""
    told = document(ROUTES)
    references: list[str] = []

    def walk(node: object) -> None:
        match node:
            case {"$ref": str(name)}:
                references.append(name)
            case dict():
                for member in node.values():
                    walk(member)
            case list():
                for member in node:
                    walk(member)

    walk(told)
    assert references
    for name in references:
        assert name.removeprefix("#/components/schemas/") in told["components"]["schemas"], name


def test_it_is_valid() -> None:
    """By the rules of OpenAPI 3.1, as its own validator reads them."""
    openapi_spec_validator.validate(document(ROUTES, ENDPOINTS))


def test_the_data_plane_is_in_it() -> None:
    """Each endpoint with the way in which it is answered, and its errors in our shape."""
    paths = document(ROUTES, ENDPOINTS)["paths"]
    for endpoint in ENDPOINTS:
        operation = paths[endpoint.template][endpoint.method.lower()]
        assert {"200", "401", "429", "503"} <= set(operation["responses"])
        assert ("text/event-stream" in operation["responses"]["200"]["content"]) == endpoint.streams
        assert {one["name"] for one in operation["parameters"] if one["in"] == "path"} == set(
            re.findall(r"\{(\w+)\}", endpoint.template)
        )


def test_it_is_told_in_chapters() -> None:
    """Each with a sentence, in the order of the table; nothing is in none."""
    told = document(ROUTES, ENDPOINTS)
    assert [one["name"] for one in told["tags"]] == [chapter.name for chapter in CHAPTERS]
    assert all(one["description"].endswith(".") for one in told["tags"])
    for path, chapter in (
        ("/v1/chat/completions", "OpenAI's API"), ("/v1/organization/costs", "OpenAI's usage and costs"),
        ("/api/credits/usage", "Usage"), ("/api/credits/balance", "Credit"), ("/api/admin/users", "Operating"),
        ("/admin/keys", "Operating by the admin token"), ("/healthz", "The service"),
    ):  # fmt: skip
        assert {operation["tags"][0] for operation in told["paths"][path].values()} == {chapter}, path
