"""Whatever is thrown at `load`: a launch, or an error that names the place. `make test` tries 2,600 examples."""

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from raylaunch.base.errors import LaunchFileError, RaylaunchError
from raylaunch.config import launch_file, schema
from raylaunch.config.launch import LaunchConfig
from raylaunch.config.schema import Part
from raylaunch.config.validation import check

pytestmark = pytest.mark.no_cover  # tracing doubles what they cost, and the other tests here run the same lines
SHIPPED = [
    (Path(__file__).parents[2] / "configs" / name).read_bytes() for name in ("deepseek-r1-70b.yaml", "demo.yaml")
]
_schema = schema.read_shipped()
NAMES = ["model", "cluster", "engine", "server", "repo", "path", "revision", "nodes", "gpus_per_node", "wait_s"]
NAMES += [
    *_schema.list_fields("engine"),
    *_schema.list_fields("server"),
    *_schema.list_fields("engine", "compilation_config"),
]


def try_examples(number: int) -> settings:
    """So many, or the part of them that the profile in use asks (100 is hypothesis's own number)."""
    return settings(
        max_examples=number * settings.default.max_examples // 100,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(
        ["ray", "float16", "/data/model", "a/b", "8080", "1e3", "0x", "on", "2024-13-45", "~", "!x", "*x"]
    )
)
names = st.sampled_from(NAMES) | st.text(max_size=12)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)
blocks = st.dictionaries(
    st.sampled_from(["model", "cluster", "engine", "server"]) | names,
    values | st.dictionaries(names, values, max_size=5),
    max_size=4,
)
dotted = st.lists(names, max_size=4).map(".".join)
raw = st.text(st.characters(codec=None), max_size=30)  # half characters included, as an environment may hold them


@pytest.fixture(scope="module")
def file() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "launch.yaml"


def check_error(error: RaylaunchError, path: Path | None) -> None:
    assert isinstance(error, LaunchFileError)
    assert error.problems
    for problem in error.problems:
        problem.encode()
        assert "\n" not in problem
        assert problem.startswith((str(path), "shipped demo.yaml", "--set", "RAYLAUNCH_", "and ")), problem


def try_load(path: Path | None, sets: list[str] | None = None, environ: dict[str, str] | None = None) -> None:
    """Load; a launch must be usable, an error must name its place and be printable."""
    try:
        launch = launch_file.load(path, sets=sets or [], environ=environ or {})
    except RaylaunchError as error:
        check_error(error, path)
        return
    assert LaunchConfig.from_json(launch.to_json()).fingerprint() == launch.fingerprint()
    assert launch.world_size >= 1
    assert launch.served_model_names
    assert 1 <= launch.port <= 65535
    json.dumps(launch_file.describe_rows(launch))


@try_examples(500)
@given(content=st.binary(max_size=400))
@example(content=b"\xff\xfe")
@example(content=b"engine: !!float ''")
@example(content=b"engine: !!python/object:os.system x")
@example(content=b"engine: {seed: 0b_}")
def test_arbitrary_bytes(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    try_load(file)


@try_examples(300)
@given(content=st.text(st.sampled_from("ab:,-?*&!|>%@`{}[]#'\"\n\t \\0129._~<=$"), max_size=60))
def test_arbitrary_yaml_punctuation(file: Path, content: str) -> None:
    file.write_text("engine:\n  tokenizer: " + content)
    try_load(file)


@try_examples(200)
@given(content=blocks)
def test_arbitrary_structures(file: Path, content: dict[str, Any]) -> None:
    file.write_bytes(yaml.safe_dump(content, allow_unicode=True).encode("utf-8", "surrogatepass"))
    try_load(file)


@try_examples(500)
@given(data=st.data(), which=st.sampled_from(SHIPPED))
def test_mutations_of_shipped_files(file: Path, data: st.DataObject, which: bytes) -> None:
    content = bytearray(which)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        until = min(len(content), at + data.draw(st.integers(0, 6)))
        content[at:until] = data.draw(
            st.binary(max_size=6) | st.sampled_from([b": ", b"\n  ", b"- ", b"*a", b"&a ", b"{"])
        )
    file.write_bytes(content)
    try_load(file)


@try_examples(200)
@given(flags=st.lists(st.builds("{}={}".format, dotted, raw | values.map(repr)) | raw, max_size=4))
def test_arbitrary_flags(flags: list[str]) -> None:
    try_load(None, sets=flags)


@try_examples(200)
@given(
    environ=st.dictionaries(
        st.builds("RAYLAUNCH_{}".format, st.lists(names, max_size=4).map(lambda parts: "__".join(parts).upper()) | raw),
        raw | values.map(repr),
        max_size=4,
    )
)
def test_arbitrary_variables(environ: dict[str, str]) -> None:
    try_load(None, environ=environ)


@try_examples(200)
@given(name=raw)
def test_arbitrary_file_names(name: str) -> None:
    path = Path("/nowhere") / name
    with pytest.raises(LaunchFileError):
        launch_file.load(path, environ={})


_validator = jsonschema.Draft202012Validator(dict(_schema.document))
_flat = [
    part
    for definition in _schema.document["$defs"].values()
    for part in definition["properties"].values()
    if "$ref" not in json.dumps(part)
]


@try_examples(500)
@given(part=st.sampled_from(_flat), data=st.data())
def test_verdicts_are_those_of_the_jsonschema_package(part: Part, data: st.DataObject) -> None:
    """But for 1.0, which is an integer to JSON Schema, and for numbers that JSON cannot write."""
    near = st.sampled_from([*part.get("enum", []), *part.get("examples", []), 0, 1, -1, 65536, True, "", [], ["a"]])
    value = data.draw(near | values)
    assume(not re.search(r"NaN|Infinity|\d\.0\b|\de[+-]?\d", json.dumps(value)))
    assert bool([*check(part, value)]) == (not _validator.evolve(schema=dict(part)).is_valid(value))
