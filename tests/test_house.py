"""The layout is the architecture: imports go down the folders, and files import in no circle."""

import ast
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "restorectl"
ORDER = (  # a folder imports from those to its right, and from itself
    {"api"},
    {"cli"},
    {"restoration", "volumes", "evaluation"},
    {"training"},
    {"batch", "weights"},
    {"engine", "images"},
    {"intensity", "files"},
    {"jobs", "catalog", "errors", "version"},
)
ONLY_IN = {  # library -> where it may be imported
    "torch": ("engine", "training", "weights", "evaluation/classifier", "evaluation/metrics"),
    "matplotlib": ("images/pictures", "images/noise_figure"),
    "typer": ("cli",),
    "huggingface_hub": ("weights/hub",),
    "jinja2": ("evaluation/pages",),
    "rich": ("cli",),
    "torchvision": (),
    "lightning": (),
    "hydra": (),
    "pickle": ("weights/pickled",),  # an unpickler that looks up no class of the file
}
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


@cache
def imported(path: Path) -> set[str]:
    """Every name that a file imports anywhere, also inside functions and for type checking."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def ours(path: Path) -> set[str]:
    """The modules of the package that a file imports."""
    found = set()
    for name in imported(path):
        head, _, inside = name.partition(".")
        if head == "restorectl":
            owner = inside if inside in MODULES else inside.rpartition(".")[0]
            found.add(owner if owner in MODULES and owner != "__init__" else "version")
    return found


def rank(module: str) -> int:
    return next(k for k, folders in enumerate(ORDER) if module.split(".")[0] in folders)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_the_folders(module):
    if module in ("__init__", "__main__"):
        return
    folder = module.split(".")[0]
    for other in ours(MODULES[module]):
        assert other.split(".")[0] == folder or rank(other) > rank(module), f"imports {other}"


@pytest.mark.parametrize("module", MODULES)
def test_libraries_stay_in_their_rooms(module):
    place = module.replace(".", "/")
    for name in imported(MODULES[module]):
        rooms = ONLY_IN.get(name.split(".")[0])
        assert rooms is None or place.startswith(rooms), f"imports {name}"


def test_no_circle_among_files():
    """Removing modules that import nothing that is left ends with none left, unless they circle."""
    left = {module: ours(path) - {module} for module, path in MODULES.items()}
    while free := {module for module, needs in left.items() if not needs & left.keys()}:
        left = {module: needs for module, needs in left.items() if module not in free}
    assert not left


def test_the_command_line_reaches_the_commands_only_inside_functions():
    """So that --help answers at once: the rooms below import numpy and torch."""
    below = set().union(*ORDER[2:6])
    for path in (PACKAGE / "cli").glob("*.py"):
        body = ast.parse(path.read_text("utf-8")).body
        top = {(n.module or "") for n in body if isinstance(n, ast.ImportFrom)}
        assert not {name for name in top if name.split(".")[1:2] and name.split(".")[1] in below}
