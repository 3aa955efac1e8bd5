"""Typed values out of JSON and out of plain ones: the only place that has msgspec learn a type, one thread at a time.

Seen with msgspec 0.22.0: it hangs what it learns of a struct on the class before it has learnt its fields, and evaluates their hints, which is Python,
in between. A second thread that reads the same type in that moment follows a null pointer, and the process dies of SIGSEGV (`json_decode_struct_map_inner`).
So a type is learnt whole, under one lock, before anything is read as it. Nothing else here calls `msgspec.convert`, `Decoder`, `schema`, or `decode` with a type;
without a type it learns nothing, nor does `encode`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

_learning = threading.Lock()


def _learn(kind: Any) -> msgspec.json.Decoder[Any]:
    with _learning:
        return msgspec.json.Decoder(kind)


_learnt: Callable[[Any], msgspec.json.Decoder[Any]] = cache(_learn)


def decoder(kind: type[T]) -> msgspec.json.Decoder[T]:
    """The decoder of a type; any thread may use it."""
    return _learnt(kind)


def decode(raw: bytes | str | msgspec.Raw, kind: type[T]) -> T:
    """Read JSON. Raises msgspec.DecodeError (ValidationError where it is JSON of another shape), RecursionError, UnicodeDecodeError."""
    return decoder(kind).decode(raw)


def convert(value: Any, kind: type[T], *, strict: bool = True) -> T:
    """Make plain values, such as TOML's, a typed one. Raises msgspec.ValidationError."""
    _learnt(kind)
    return msgspec.convert(value, kind, strict=strict)


def schemas(kinds: Iterable[Any], ref_template: str = "#/$defs/{name}") -> tuple[list[Any], dict[str, Any]]:
    """The JSON schemas of types, and by name those of the types that they refer to."""
    with _learning:
        found, parts = msgspec.json.schema_components(kinds, ref_template=ref_template)
    return list(found), parts
