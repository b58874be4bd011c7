"""The OpenAPI document says what the routes do."""

import openapi_spec_validator

from meterproxy.control.openapi import document
from meterproxy.control.routes import ROUTES


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
    openapi_spec_validator.validate(document(ROUTES))
