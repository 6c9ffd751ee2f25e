"""Reads YAML with the line of every key, and refuses documents that are no launch (or cluster) file.

Only the form is checked here; `validation` and `cluster_file` check keys and values.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from pydantic import JsonValue

from raylaunch.base.text import is_encodable, printable
from raylaunch.config.file_content import LAUNCH_FILE, MAX_BYTES, FileKind
from raylaunch.config.layers import BLOCKS, Key, LayeredValues, ValueSource, describe_path, flatten, show_key
from raylaunch.config.yaml_scalars import TAG, list_resolvers, read_scalar

_MAX_VALUES = 10_000
_MAX_DEPTH = 32
_MAX_NUMBER = 1 << 63
_QUOTED = re.compile(r"'([^']*)'")
_INDENTATION = re.compile(r"expected <block end>, but found '(<block \w+ start>|-|\?)'")
_WIDE_COLON = re.compile(r"^[ -]*\w+(?=：)", re.MULTILINE)
_COLON_HINT = "a full-width colon (：); write : and a space"
_VARIABLE = re.compile(r"\$(?:\w+|\{.*\})")
_IN_PATH = re.compile(r"\$\{\w+\}")


class BadYamlError(Exception):
    """YAML that cannot be read; `line` and `column` count from 1."""

    def __init__(self, what: str, mark: Any = None) -> None:
        super().__init__(what)
        self.what = what
        self.line = mark.line + 1 if mark else 1
        self.column = mark.column + 1 if mark else 1


class _BadValueError(BadYamlError):
    """A single value that cannot be read, in a document that can."""


class _Loader(yaml.SafeLoader):
    """SafeLoader with limits on depth and on the number of values, against hostile documents, and its own scalars."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0
        self.count = 0

    def compose_node(self, parent: "yaml.Node | None", index: Any) -> "yaml.Node | None":
        event = self.peek_event()  # type: ignore[no-untyped-call]
        self.count += 1
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise BadYamlError(f"nested more than {_MAX_DEPTH} levels deep", event.start_mark)
        if self.count > _MAX_VALUES:
            raise BadYamlError(f"more than {_MAX_VALUES} values", event.start_mark)
        if isinstance(event, yaml.AliasEvent) and event.anchor not in self.anchors:
            raise BadYamlError(
                "an alias (*) without its anchor (&); put text that starts with * in quotes", event.start_mark
            )
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


_Loader.yaml_implicit_resolvers = {}  # not those of YAML 1.1
for _tag, _form, _first in list_resolvers():
    _Loader.add_implicit_resolver(_tag, _form, _first)


class _Walker:
    """Turns a node tree into plain values, and records the line of each key."""

    def __init__(self, report: Callable[[int, Key, str], None]) -> None:
        self.report = report
        self.lines: dict[Key, int] = {}
        self.count = 0

    def walk(self, node: yaml.Node, key: Key) -> JsonValue:
        """The value of a node.

        Raises:
            BadYamlError: aliases unfold to too many values.
            _BadValueError: a scalar of it cannot be read.
        """
        self.count += 1
        if self.count > _MAX_VALUES or len(key) > _MAX_DEPTH:
            raise BadYamlError(f"aliases that unfold to more than {_MAX_VALUES} values", node.start_mark)
        if isinstance(node, yaml.MappingNode):
            return self._walk_mapping(node, key)
        if isinstance(node, yaml.SequenceNode):
            # A list's entries are reported with the line of their list.
            return [self.walk(entry, (*key, str(number))) for number, entry in enumerate(node.value)]
        return self._read_scalar(node)

    def _walk_mapping(self, node: yaml.MappingNode, key: Key) -> dict[str, JsonValue]:
        values: dict[str, JsonValue] = {}
        for name_node, value_node in node.value:
            line = name_node.start_mark.line + 1
            if not isinstance(name_node, yaml.ScalarNode) or name_node.tag != f"{TAG}str":
                self.report(line, key, _describe_key(name_node))
                continue
            name = name_node.value
            if name_node.style is None and _WIDE_COLON.match(name):
                self.report(line, key, _COLON_HINT)
                continue
            if name_node.style is None and not name.isprintable():
                self.report(line, key, f"{printable(name)} has a character that looks like a space and is none")
                continue
            path = (*key, name)
            if name in values:
                self.report(line, path, f"duplicate key, first on line {self.lines[path]}")
                continue
            self.lines[path] = line
            try:
                values[name] = self.walk(value_node, path)
            except _BadValueError as error:
                self.report(line, path, error.what)
        return values

    def _read_scalar(self, node: yaml.Node) -> JsonValue:
        tag = node.tag.removeprefix(TAG)
        text: str = node.value
        if tag in ("str", "timestamp", "value", "merge"):
            if "\0" in text or not is_encodable(text):
                raise _BadValueError("text with characters that no program can pass on (null or half a pair)")
            return text
        if tag not in ("int", "float", "bool", "null"):
            raise _BadValueError("a YAML tag (!...); put text that starts with ! in quotes")
        try:
            value: JsonValue = read_scalar(tag, text)
        except ValueError:
            raise _BadValueError("a value that YAML cannot read; put text in quotes") from None
        if isinstance(value, int) and not -_MAX_NUMBER <= value < _MAX_NUMBER:
            raise _BadValueError("a number of more than 64 bits")
        return value


def _describe_key(node: yaml.Node) -> str:
    if node.tag == f"{TAG}merge":
        return "merge keys (<<) are not read: repeat their keys, or give a complete block by its alias (engine: *name)"
    return "this key is not a string; put it in quotes"


def parse_yaml(text: str, report: Callable[[int, Key, str], None]) -> tuple[JsonValue, dict[Key, int]]:
    """The plain value of a YAML document, and the line of every key.

    Args:
        report: called with line, path and message for each key whose value cannot be read, and is left out.

    Raises:
        BadYamlError: the document cannot be read at all.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        walker = _Walker(report)
        return (None if node is None else walker.walk(node, ())), walker.lines
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        mark = yaml.Mark("", 0, before.count("\n"), len(before) - before.rfind("\n") - 1, None, 0)
        raise BadYamlError("a control character, which YAML does not allow", mark) from None
    except yaml.MarkedYAMLError as error:
        # Quoted text of the file may be a secret: only single characters and token names are repeated.
        problem = error.problem or "not YAML"
        what = _QUOTED.sub(lambda found: found[0] if len(found[1]) < 2 or found[1][0] == "<" else "...", problem)
        if _INDENTATION.fullmatch(problem):
            what = "the indentation differs from that of the lines above"
        if "'\\t' that cannot start any token" in problem:
            what = "a tab; YAML indents with spaces"
        elif problem.endswith("that cannot start any token"):
            what += "; put text that starts with it in quotes"
        if problem.startswith("mapping values are not allowed"):
            what += "; put text that holds a colon and a space in quotes"
        if "expected a single document" in (error.context or ""):
            what = "a second document (---); the file holds one"
        raise BadYamlError(what, error.problem_mark or error.context_mark) from None


def read_file(path: Path | None, content: bytes, layered: LayeredValues, kind: FileKind = LAUNCH_FILE) -> None:
    """Put a file's values into `layered`.

    Args:
        path: for messages; None is the demo.
    """
    name = describe_path(path)

    def report(line: int, key: Key, what: str) -> None:
        layered.problems.append(f"{name}:{line}: {show_key(key) + ': ' if key else ''}{what}")

    text = ""
    try:
        text = _decode(content, kind)
        document, lines = parse_yaml(text, report)
        values = _read_blocks(document, kind)
    except BadYamlError as caught:
        error = _find_wide_colon(text) or caught
        layered.problems = [f"{name}:{error.line}: column {error.column}: {error.what}"]
        layered.unread = True
        return
    layered.values = values
    layered.sources = {key: ValueSource("file", f"{name}:{line}") for key, line in lines.items()}
    if kind is LAUNCH_FILE:
        _refuse_variables(layered)


def _find_wide_colon(text: str) -> BadYamlError | None:
    if (found := _WIDE_COLON.search(text)) is None:
        return None
    line, column = text.count("\n", 0, found.end()), found.end() - text.rfind("\n", 0, found.end()) - 1
    return BadYamlError(_COLON_HINT, yaml.Mark("", 0, line, column, None, 0))


def _refuse_variables(layered: LayeredValues) -> None:
    """A value such as ${API_KEY} would be taken as it stands, as a key that everyone can guess."""
    for key, value in flatten(layered.values):
        texts = [text for text in (value if isinstance(value, list) else (value,)) if isinstance(text, str)]
        if any(_VARIABLE.fullmatch(text) or (key[0] == "model" and _IN_PATH.search(text)) for text in texts):
            variable = f"RAYLAUNCH_{'__'.join(key)}".upper()
            layered.complain(
                key, f"variables are not replaced in this file: leave the key out and set {variable}, or use --set"
            )


def _read_blocks(document: JsonValue, kind: FileKind) -> dict[str, JsonValue]:
    if isinstance(document, dict):
        if len(kind.of_others & document.keys()) > 1:
            raise BadYamlError(
                f"this is no {kind.noun}: it has {' and '.join(sorted(kind.of_others & document.keys()))}"
            )
        return document
    if document is None:
        raise BadYamlError(f"the file is empty; it needs {kind.needs}")
    needs = f"{', '.join(BLOCKS)}, each a key and a colon" if kind is LAUNCH_FILE else kind.needs
    raise BadYamlError(f"no blocks at the top; the file needs {needs}")


def _decode(content: bytes, kind: FileKind) -> str:
    if len(content) > MAX_BYTES:
        raise BadYamlError(f"larger than {MAX_BYTES >> 20} MiB: this is not a {kind.noun}")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise BadYamlError("UTF-16 text: save the file as UTF-8")
    if b"\0" in content:
        raise BadYamlError(f"binary data, not text: this is not a {kind.noun}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        mark = yaml.Mark("", 0, before.count(b"\n"), len(before) - before.rfind(b"\n") - 1, None, 0)
        raise BadYamlError("not UTF-8 text", mark) from None
