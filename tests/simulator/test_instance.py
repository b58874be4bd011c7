"""Instances validate against the schemas they were made from."""

from enum import Enum
from itertools import cycle
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel, Field

from meterproxy.simulator.instance import instance_of


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Step(BaseModel):
    explanation: str
    weight: Annotated[float, Field(gt=0, le=1, multiple_of=0.5)]
    kind: Literal["first", "second"]


class Node(BaseModel):
    name: Annotated[str, Field(min_length=12, max_length=20)]
    child: "Node | None"
    children: list["Node"]


class Everything(BaseModel):
    steps: Annotated[list[Step], Field(min_length=2)]
    colour: Colour
    identifier: UUID
    number: Annotated[int, Field(ge=10, lt=12)]
    negative: Annotated[int, Field(lt=-4)]
    maybe: int | None
    tree: Node
    flag: bool


@pytest.mark.parametrize("model", [Step, Node, Everything])
def test_models_accept_their_instances(model: type[BaseModel]) -> None:
    """What pydantic describes as a schema it accepts as made, recursion included."""
    model.model_validate(instance_of(model.model_json_schema(), cycle([" word"])))


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({}, "word word word"),
        ({"const": 5}, 5),
        ({"type": ["integer", "null"]}, 0),
        ({"type": "object", "properties": {"a": {"type": "null"}}}, {"a": None}),
        ({"allOf": [{"type": "integer"}, {"minimum": 7}]}, 7),
        ({"items": {"enum": ["x", "y"]}}, ["x"]),
        ({"type": "string", "format": "date"}, "2026-01-02"),
        ({"type": "string", "maxLength": 4}, "word"),
    ],
)
def test_small_schemas(schema: dict[str, Any], value: Any) -> None:
    """Each keyword does what it says."""
    assert instance_of(schema, cycle([" word"])) == value
