"""Meters: which reader an operation's answers take, whole or as a stream."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from meterproxy.proxy.meter import Reading, StreamMeter, read_answer
from meterproxy.proxy.response_meter import ResponseMeter, read_response
from meterproxy.proxy.response_texts import response_answer_texts
from meterproxy.proxy.texts import TextPool, answer_texts
from meterproxy.proxy.usage_shapes import Ceiling


class PlainReader(NamedTuple):
    """How a plain answer is read: what it says it used, and the texts that are counted where it says nothing."""

    reading: Callable[[str, bytes, Ceiling], Reading]
    texts: Callable[[bytes], list[str]]


_USUAL: Final = PlainReader(read_answer, answer_texts)
_OTHERS: Final[Mapping[str, PlainReader]] = MappingProxyType(
    {"response": PlainReader(read_response, response_answer_texts)}
)


def plain_reader(operation: str) -> PlainReader:
    """The reader of an operation's plain answers."""
    return _OTHERS.get(operation, _USUAL)


def meter_of(operation: str, pool: TextPool, *, editing: bool, holding: bool) -> StreamMeter | ResponseMeter:
    """The meter of one of an operation's streams; see there for what is asked of it."""
    if operation == "response":
        return ResponseMeter(operation, pool)
    return StreamMeter(operation, pool, editing=editing, holding=holding)
