"""Python type hints as JSON Schema: how vLLM's dataclasses become a schema, without importing vLLM here."""

import collections.abc
import dataclasses
import enum
import importlib
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from raylaunch.config.schema import Part
from raylaunch.config.validation import list_types

_BLOCKS_OF_ANY = {"speculative_config": "SpeculativeConfig"}
"""Options that vLLM types as a plain dict and turns into one of its classes."""

BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
"""pydantic's names of limits -> JSON Schema's."""

_TYPES: Mapping[Any, str] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    dict: "object",
    collections.abc.Mapping: "object",
    type(None): "null",
}
_LISTS = (list, set, tuple, frozenset, collections.abc.Sequence)


@dataclasses.dataclass
class _Found:
    """What the parts of one type hint add up to."""

    types: list[str] = dataclasses.field(default_factory=list)
    """JSON types; "any" where vLLM accepts everything."""
    choices: list[Any] = dataclasses.field(default_factory=list)
    is_open: bool = False
    """Any text or number fits, so `choices` are not all."""
    keywords: list[tuple[str, Any]] = dataclasses.field(default_factory=list)


class Describer:
    """Turns type hints into schemas, and collects definitions of the config classes that they name.

    Args:
        read_docs: the docstring of each field of a class.
    """

    def __init__(self, read_docs: Callable[[Any], Mapping[str, str]]) -> None:
        self.definitions: dict[str, Part] = {}
        self._read_docs = read_docs

    def describe_type(self, hint: Any, *, null: bool = False) -> Part:
        """The schema of a type hint.

        Args:
            null: the value may be null even where the hint has no None.
        """
        found = _Found()
        self._add(hint, found)
        kinds = list(dict.fromkeys(found.types))
        if "any" in kinds or kinds in ([], ["null"]):
            return {}
        if null and "null" not in kinds:
            kinds.append("null")
        part = {"type": kinds[0] if len(kinds) == 1 else kinds} | dict(found.keywords)
        if found.choices and not found.is_open:
            part["enum"] = found.choices + [None] * ("null" in kinds)
        return part

    def _add(self, hint: Any, found: _Found) -> None:
        origin, args = typing.get_origin(hint), typing.get_args(hint)
        if origin is typing.Annotated:
            found.keywords += find_bounds(hint.__metadata__).items()
            self._add(args[0], found)
        elif origin in (typing.Union, types.UnionType):
            for arg in args:
                self._add(arg, found)
        elif origin is typing.Literal:
            found.types += [_TYPES[type(choice)] for choice in args]
            found.choices += [choice for choice in args if choice is not None]
        elif (origin or hint) in _LISTS:
            found.types.append("array")
            inner = [arg for arg in args if arg is not Ellipsis]
            if inner and all(arg == inner[0] for arg in inner):
                found.keywords.append(("items", self.describe_type(inner[0])))
        elif (origin or hint) in _TYPES:
            found.types.append(_TYPES[origin or hint])
            found.is_open |= hint in (str, int, float)
        elif inspect.isclass(hint) and issubclass(hint, enum.Enum):
            found.types += ["string", "integer"]  # by value or by name, which differs from option to option
            found.is_open = True
        elif inspect.isclass(hint) and (dataclasses.is_dataclass(hint) or hasattr(hint, "__pydantic_fields__")):
            found.types.append("object")
            if not _rewrites_input(hint):
                found.keywords.append(("$ref", self.define(hint)))
        elif hint is Any or isinstance(hint, str | typing.TypeVar):
            found.types.append("any")
        # The remaining hints cannot be written in YAML: callables, classes, torch.dtype.

    def define(self, cls: Any) -> str:
        """Define one of vLLM's config classes; the reference to it."""
        if cls.__name__ not in self.definitions:
            fields: dict[str, Part] = {}
            self.definitions[cls.__name__] = {"additionalProperties": False, "properties": fields}
            converted, docs = _find_converted(cls), self._read_docs(cls)
            for name, hint, default in _list_fields(cls):
                field = getattr(cls, "__pydantic_fields__", {}).get(name)
                part = {
                    **self.describe_type(hint, null=default is None),
                    **find_bounds(field.metadata if field else ()),
                }
                if name in converted:  # a validator of vLLM's accepts other types too; a block's keys stay the same
                    part = {key: part[key] for key in ("$ref",) if key in part}
                fields[name] = {**part, **describe_text(docs.get(name))}
        return f"#/$defs/{cls.__name__}"

    def describe_arguments(
        self, cls: Any, bounds: Mapping[str, Part], docs: Mapping[str, str]
    ) -> Iterator[tuple[str, Part]]:
        """Name and schema of each option of an arguments class (AsyncEngineArgs, FrontendArgs).

        Args:
            bounds: ranges by field name.
            docs: docstrings by field name.
        """
        for name, hint, default in _list_fields(cls):
            part = {**self.describe_type(hint, null=default is None)}
            if {"integer", "number"} & {*list_types(part)}:
                part.update(bounds.get(name, {}))
            if name in _BLOCKS_OF_ANY:
                part["$ref"] = self.define(getattr(importlib.import_module("vllm.config"), _BLOCKS_OF_ANY[name]))
            yield name, {**part, **describe_text(docs.get(name))}


def _list_fields(cls: Any) -> list[tuple[str, Any, Any]]:
    """Name, type hint and default of the arguments of a class's constructor, without private ones."""
    hints = _read_hints(cls)
    if not dataclasses.is_dataclass(cls):
        return [(name, hint, ...) for name, hint in hints.items() if name in cls.__pydantic_fields__]
    found = []
    for field in dataclasses.fields(cls):
        default = getattr(field.default, "default", field.default)  # through pydantic's Field(...)
        takes = field.init and getattr(field.default, "init", None) is not False
        if takes and not field.name.startswith("_"):
            found.append((field.name, hints[field.name], default))
    return found


def _read_hints(cls: Any, **unknown: Any) -> Any:
    try:
        return typing.get_type_hints(cls, localns=unknown, include_extras=True)
    except NameError as error:  # imported for type checkers only
        return _read_hints(cls, **unknown, **{str(error.name): Any})


def _find_converted(cls: Any) -> set[str]:
    """Fields of a pydantic class whose input a validator turns into their type first."""
    decorators = getattr(cls, "__pydantic_decorators__", None)
    validators = decorators.field_validators.values() if decorators else ()
    return {name for v in validators if v.info.mode in ("before", "wrap", "plain") for name in v.info.fields}


def _rewrites_input(cls: Any) -> bool:
    """Whether a pydantic class has a validator that gets all of its input first, so that it may accept other keys."""
    decorators = getattr(cls, "__pydantic_decorators__", None)
    return decorators is not None and any(v.info.mode != "after" for v in decorators.model_validators.values())


def find_bounds(metadata: Iterable[Any]) -> dict[str, float]:
    """The limits among pydantic's field metadata, as JSON Schema."""
    return {
        keyword: value
        for entry in metadata
        for name, keyword in BOUNDS.items()
        if isinstance(value := getattr(entry, name, None), int | float)
    }


def describe_text(doc: str | None) -> dict[str, str]:
    """The first paragraph of a docstring as the description that editors show."""
    paragraph = " ".join((doc or "").strip().partition("\n\n")[0].split())
    return {"description": paragraph} if paragraph else {}
