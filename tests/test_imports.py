"""The house's rules: imports go to a lower floor, and what is run or imported in one room alone stays there."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "raylaunch"
FLOORS = (("data",), ("base", "node"), ("cluster", "explain", "config"), ("engine", "plan", "preflight", "provision"),
          ("weights", "lock"), ("serve",), ("top", "bench"), ("upgrade",), ("cli",))  # fmt: skip
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
PRIVATE_RAY = {"cluster/ranks.py", "provision/head_watch.py"}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE)


def list_imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.no_cover  # it runs nothing of the package
@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_keeps_to_its_room(path: Path) -> None:
    """Lower floors only; vLLM in engine/, ssh and docker in provision/, Ray's private parts in two files; 300 lines."""
    place, text = path.relative_to(PACKAGE), path.read_text()
    assert text.count("\n") <= 300, "a module that is read in one go"
    tree, room = ast.parse(text), place.parts[0]
    for name in list_imports(tree):
        top, _, rest = name.partition(".")
        if top == "raylaunch" and (other := rest.partition(".")[0]) in FLOOR and other != room:
            assert FLOOR[other] < FLOOR[room], f"{name} is not below {room}/"
        assert top != "vllm" or room == "engine", name
        assert ("ray._private" not in name and "ray.core.generated" not in name) or str(place) in PRIVATE_RAY, name
    if room != "provision" and "subprocess" in {*list_imports(tree)}:
        commands = {node.elts[0] for node in ast.walk(tree) if isinstance(node, (ast.List, ast.Tuple)) and node.elts}
        words = {node.value for node in commands if isinstance(node, ast.Constant)}
        assert not words & {"ssh", "docker", "podman"}, "ssh and docker are run in provision/ alone"
    assert "ray._private" not in text or str(place) in PRIVATE_RAY, "Ray's private modules"


def test_no_function_is_longer_than_60_lines() -> None:
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                assert node.end_lineno - node.lineno < 60, f"{path.relative_to(PACKAGE)}: {node.name}"


def test_contributing_maps_every_room() -> None:
    """Each room of the package, on its floor."""
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text()
    rows = re.findall(r"^\| (\d) \| ((?:`\w+/`(?:, )?)+) \|", text, re.MULTILINE)
    assert {room: int(floor) for floor, rooms in rows for room in re.findall(r"`(\w+)/`", rooms)} == FLOOR


def test_root_holds_rooms_alone() -> None:
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py"}
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms == FLOOR.keys()
