"""Below the command line a message names fields of jobs; the command line says its options."""

import ast
import functools
import re
from pathlib import Path

import typer.main
from typer.testing import CliRunner

from restorectl.cli.app import app
from restorectl.cli.progress import worded

PACKAGE = Path(__file__).parents[2] / "restorectl"
OF_THE_COMMAND_LINE = ("cli", "catalog.py")  # help texts come from the catalog's rows
MODEL_CARD = "export.py"  # holds a page for the hub, with commands to be typed


def options():
    """Every option of every command, as it is typed."""
    parameters = [each for command in commands().values() for each in command.params]
    return {name for each in parameters for name in (*each.opts, *each.secondary_opts)}


@functools.cache
def commands():
    """Every command by its words, such as "weights pull"."""
    found, waiting = {}, [("", typer.main.get_command(app))]
    while waiting:
        name, command = waiting.pop()
        if hasattr(command, "list_commands"):
            names = command.list_commands(None)
            waiting += [
                (f"{name} {each}".strip(), command.get_command(None, each)) for each in names
            ]
        else:
            found[name] = command
    return found


@functools.cache
def messages():
    """(file, text) of all strings below cli/ that are not docstrings."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.relative_to(PACKAGE).parts[0] in OF_THE_COMMAND_LINE or path.name == MODEL_CARD:
            continue
        tree = ast.parse(path.read_text("utf-8"))
        said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
            if is_text and id(node) not in said:
                found.append((path.relative_to(PACKAGE), node.value))
    return found


def test_no_option_is_named_below_the_command_line():
    for path, text in messages():
        assert not re.search(r"(?<![\w-])--[a-z]|(^|\s)-o(\s|$)", text), f"{path}: {text}"


def test_every_field_that_a_message_names_is_an_option():
    known = options()
    for path, text in messages():
        for name in re.findall(r"`([a-z_]+)`", text):
            assert worded(f"`{name}`") in known, f"{path}: {text}"


def test_words():
    assert worded("use `axes` ZYX or `min_free`") == "use --axes ZYX or --min-free"
    assert worded("`start` 3: below `first`") == "--start-step 3: below --mix-weights"
    assert worded("another `output`") == "another -o"
    assert worded("`kind` none, `checkpoint_kind` rscd") == "--noise none, --as rscd"


def test_brackets_in_help_are_no_markup():
    shown = CliRunner().invoke(app, ["restore", "--help"], env={"COLUMNS": "300"}).output
    assert "hf://org/name[@revision]/file.safetensors" in shown
