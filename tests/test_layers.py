"""The layout is the architecture: imports go down only, heavy and terminal libraries stay put."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "restorectl"
ALLOWED = {  # room -> rooms below it that it may import
    "core": {"core", "errors", ""},  # "": the version
    "io": {"io", "core", "errors", "catalog", ""},
    "engine": {"engine", "core", "errors", "catalog"},
    "tasks": {"tasks", "engine", "io", "core", "errors", "catalog", ""},
    "cli": {"cli", "tasks", "core", "errors", "catalog", ""},
    "catalog": set(),
    "errors": set(),
}
ONLY_IN = {  # library -> where it may be imported
    "torch": {"engine", "io/weights.py", "io/foreign.py", "tasks/train.py", "tasks/checkpoint.py"},
    "matplotlib": {"io/figures.py"},
    "typer": {"cli"},
    "huggingface_hub": {"io/hub.py"},
    "rich": {"cli"},
    "torchvision": set(),
    "lightning": set(),
    "hydra": set(),
    "pickle": set(),
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down_only(path):
    inside = path.relative_to(PACKAGE)
    room = inside.parts[0].removesuffix(".py")
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "restorectl" and room in ALLOWED:
            target = parts[1] if len(parts) > 1 and parts[1] in ALLOWED else ""
            assert target in ALLOWED[room], f"{inside} imports {name}"
        if parts[0] in ONLY_IN:
            places = ONLY_IN[parts[0]]
            assert any(str(inside).startswith(p) for p in places), f"{inside} imports {name}"


def test_cli_reaches_tasks_only_inside_functions():
    for path in (PACKAGE / "cli").glob("*.py"):
        body = ast.parse(path.read_text("utf-8")).body
        top = {n.module for n in body if isinstance(n, ast.ImportFrom)}
        assert not any((m or "").startswith("restorectl.tasks") for m in top), path


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_modules_and_functions_stay_small(path):
    text = path.read_text("utf-8")
    assert text.count("\n") <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= 60, f"{node.name} has {length} lines"
