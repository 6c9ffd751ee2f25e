"""Python type hints as options: how vLLM's dataclasses become a table, without importing vLLM here."""

import collections.abc
import dataclasses
import enum
import importlib
import inspect
import types
import typing
from typing import Any

_BLOCKS_OF_ANY = {"speculative_config": "SpeculativeConfig"}
"""Options that vLLM types as dict[str, Any] and turns into one of its classes."""


_BOUNDS = ("ge", "gt", "le", "lt")


_KINDS: dict[Any, str] = {
    bool: "bool",
    int: "int",
    float: "float",
    str: "str",
    dict: "dict",
    collections.abc.Mapping: "dict",
    type(None): "null",
}


_LISTS = (list, set, tuple, frozenset, collections.abc.Sequence)


class Describer:
    """Turns type hints into options, and remembers the config classes met on the way."""

    def __init__(self) -> None:
        self.classes: dict[str, dict[str, Any]] = {}

    def describe_type(self, hint: Any) -> dict[str, Any]:
        """The option (options.Option as JSON) for a type hint."""
        option: dict[str, Any] = {"kinds": []}
        closed = not self._add(hint, option)
        kinds = list(dict.fromkeys(option["kinds"]))
        option["kinds"] = ["any"] if not kinds or "any" in kinds or kinds == ["null"] else kinds
        if option["kinds"] == ["any"]:
            return {"kinds": ["any"]}
        if "choices" in option and not closed:
            del option["choices"]
        return option

    def _add(self, hint: Any, option: dict[str, Any]) -> bool:
        """Add a hint to the option; whether it is open text or numbers, so that named choices are not all."""
        origin, args = typing.get_origin(hint), typing.get_args(hint)
        if origin is typing.Annotated:
            option.update(find_bounds(hint.__metadata__))
            return self._add(args[0], option)
        if origin in (typing.Union, types.UnionType):
            opened = [self._add(arg, option) for arg in args]  # all of them: each adds its kinds
            return any(opened)
        if origin is typing.Literal:
            option["kinds"] += [_KINDS[type(choice)] for choice in args]
            option["choices"] = [choice for choice in args if choice is not None]
        elif (origin or hint) in _LISTS:
            option["kinds"].append("list")
            inner = [arg for arg in args if arg is not Ellipsis]
            if inner and all(arg == inner[0] for arg in inner):
                option["items"] = self.describe_type(inner[0])
        elif (origin or hint) in _KINDS:
            option["kinds"].append(_KINDS[origin or hint])
            return hint in (str, int, float)
        elif inspect.isclass(hint) and issubclass(hint, enum.Enum):
            option["kinds"] += ["str", "int"]  # by value or by name, which differs from option to option
            return True
        elif inspect.isclass(hint) and (dataclasses.is_dataclass(hint) or hasattr(hint, "__pydantic_fields__")):
            option["kinds"].append("dict")
            if not rewrites_input(hint):
                option["config"] = hint.__name__
                if hint.__name__ not in self.classes:
                    self.describe_class(hint)
        elif hint is Any or isinstance(hint, str | typing.TypeVar):
            option["kinds"].append("any")
        # What is left cannot be written in YAML: callables, classes, torch.dtype.
        return False

    def describe_class(self, cls: Any) -> None:
        """Describe the fields of one of vLLM's config classes."""
        options = self.classes[cls.__name__] = {}
        converted = find_converted(cls)
        for name, hint, default in list_fields(cls):
            option = allow_null(self.describe_type(hint), default) | self._find_own_bounds(cls, name)
            if name in converted:  # a validator of vLLM's takes other kinds, too; a block's names stay the same
                option = {"kinds": ["any"]} | {key: option[key] for key in ("config",) if key in option}
            options[name] = option

    def _find_own_bounds(self, cls: Any, name: str) -> dict[str, Any]:
        field = getattr(cls, "__pydantic_fields__", {}).get(name)
        return find_bounds(field.metadata) if field is not None else {}

    def describe_arguments(self, cls: Any, bounds: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """The options of an arguments class (AsyncEngineArgs, FrontendArgs), with ranges by field name."""
        options = {}
        for name, hint, default in list_fields(cls):
            option = allow_null(self.describe_type(hint), default)
            if {"int", "float"} & {*option["kinds"]}:
                option |= bounds.get(name, {})
            if name in _BLOCKS_OF_ANY and (
                config := getattr(importlib.import_module("vllm.config"), _BLOCKS_OF_ANY[name])
            ):
                self.describe_class(config)
                option["config"] = config.__name__
            options[name] = option
        return options


def list_fields(cls: Any) -> list[tuple[str, Any, Any]]:
    """Name, type hint and default of what a class's constructor takes, without private ones."""
    names: dict[str, Any] = {}
    while True:
        try:
            hints = typing.get_type_hints(cls, localns=names, include_extras=True)
            break
        except NameError as error:  # imported for type checkers only
            names[str(error.name)] = Any
    if not dataclasses.is_dataclass(cls):
        return [(name, hint, ...) for name, hint in hints.items() if name in cls.__pydantic_fields__]
    found = []
    for field in dataclasses.fields(cls):
        default = getattr(field.default, "default", field.default)  # through pydantic's Field(...)
        takes = field.init and getattr(field.default, "init", None) is not False
        if takes and not field.name.startswith("_"):
            found.append((field.name, hints[field.name], default))
    return found


def allow_null(option: dict[str, Any], default: Any) -> dict[str, Any]:
    """The option, taking null where null is its default whatever its type says."""
    if default is None and not {"null", "any"} & {*option["kinds"]}:
        option["kinds"] = [*option["kinds"], "null"]
    return option


def find_converted(cls: Any) -> set[str]:
    """Fields of a pydantic class whose input a validator turns into their type first."""
    decorators = getattr(cls, "__pydantic_decorators__", None)
    validators = decorators.field_validators.values() if decorators else ()
    return {name for v in validators if v.info.mode in ("before", "wrap", "plain") for name in v.info.fields}


def rewrites_input(cls: Any) -> bool:
    """Whether a pydantic class has a validator that sees all of its input first, so that it may take other names."""
    decorators = getattr(cls, "__pydantic_decorators__", None)
    return decorators is not None and any(v.info.mode != "after" for v in decorators.model_validators.values())


def find_bounds(metadata: Any) -> dict[str, Any]:
    """The ge, gt, le and lt among pydantic's field metadata."""
    return {
        name: value
        for entry in metadata
        for name in _BOUNDS
        if isinstance(value := getattr(entry, name, None), int | float)
    }
