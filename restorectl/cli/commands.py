"""How commands show their help, say what is wrong with their options, and read --config.

`-h` shows the options that people use, `--help` all of them: both from the declarations of
`options.command`. Everything fits the terminal's width; no word is broken.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from restorectl.cli.layout import entry, heading, listed, paragraphs
from restorectl.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from restorectl.cli.options import Option

SHORT = "restorectl.short"  # whether -h asked for the help
COMMANDS = {  # cli/NAME.py: NAME -> what it does
    "restore": "Remove noise from images; their metadata stay the same.",
    "denoise": "Denoise images with a choice of published methods.",
    "superres3d": "Make stacks isotropic: restore the planes between the recorded ones.",
    "uncertainty": "Restore each image many times: mean, spread and error bars.",
    "train": "Train or fine-tune a model on your own images.",
    "calibrate": "Measure how noisy images are.",
    "evaluate": "Compare restored images with true ones.",
    "info": "Show what is in image files, and what results would lose.",
    "weights": "List, download, verify, locate, import and export models.",
    "docs": "Read the documentation. Never uses the network.",
    "help": "Show the help of a command.",
}
EXIT_CODES = {
    "0": "all done",
    "1": "unexpected error",
    "2": "invalid options",
    "3": "some files failed, the others are done",
    "4": "no input found",
    "5": "a model is missing or wrong",
    "6": "quality gate not met",
    "73": "disk full",
    "75": "another run uses the output folder",
    "129, 130, 143": "ended by a hangup, Ctrl-C or kill",
}


class Command(TyperCommand):
    """A command made by `options.command`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        options = args[: args.index("--")] if "--" in args else args
        if {"-h", "--help"} & set(options) and not ctx.resilient_parsing:
            ctx.meta[SHORT] = "--help" not in options
            _show_help(ctx)
        with plainly(ctx):
            file = _config(args)
            if file is not None:
                ctx.default_map = _defaults(file, ctx.command_path, vars(self.callback)["shown"])
            return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        declared: Mapping[str, Option] = vars(self.callback)["shown"]
        text, _, examples = (self.help or "").partition("Examples:")
        arguments = {n: each for n, each in declared.items() if each.is_argument}
        words = ["[OPTIONS]", *(each.shown["metavar"] for each in arguments.values())]
        page = _title(ctx, words) + paragraphs(text) + heading("Examples")
        page += "".join(f"  {line.strip()}\n" for line in examples.strip().splitlines())
        if ctx.meta.get(SHORT):
            often = arguments | {n: e for n, e in declared.items() if e.often}
            page += heading("Options that are often used")
            page += "".join(each.described(name, short=True) for name, each in often.items())
            page += f"\nAll options: {ctx.command_path} --help\n"
        else:
            panels: dict[str, str] = {}
            for name, each in declared.items():
                panel = "Arguments" if each.is_argument else each.panel or "Options"
                panels[panel] = panels.get(panel, "") + each.described(name)
            panels["Help"] = entry("-h", "The options that are often used.")
            panels["Help"] += entry("--help", "All options.")
            page += "".join(heading(panel) + lines for panel, lines in panels.items())
            page += heading("Exit codes") + listed(EXIT_CODES)
        formatter.write(page)


class Commands(TyperGroup):
    """A group of commands."""

    lines: Mapping[str, str] = {}  # command -> its help in one line

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if (not args or args[0] in ("-h", "--help")) and not ctx.resilient_parsing:
            _show_help(ctx, 0 if args else 2)
        if args and not args[0].startswith("-"):
            # none is given: typer would load pydantic to find that out
            self.params, self.add_help_option = [], False
        with plainly(ctx):
            return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if self.get_command(ctx, args[0]) is None and not ctx.resilient_parsing:
            known = self.list_commands(ctx)
            raise UsageError(
                f"{ctx.command_path} {args[0]}: no such command: see `{ctx.command_path} --help`"
                f"{did_you_mean(args[0], known)}"
            )
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        lines = self.lines or {
            name: (command.help or "").partition("\n")[0] for name, command in self.commands.items()
        }
        page = _title(ctx, ["COMMAND", "..."]) + paragraphs(self.help or "")
        page += heading("Commands") + listed(lines)
        page += f"\nOptions of a command: {ctx.command_path} COMMAND -h\n"
        options = {
            ", ".join(sorted(each.opts, key=len)): text
            for each in self.params
            if (text := getattr(each, "help", None))
        }
        page += heading("Options") + listed(options | {"-h, --help": "This help."})
        formatter.write(page + heading("Exit codes") + listed(EXIT_CODES))


class Lazy(Commands):
    """Loads the module of a command, cli/NAME.py, when it is needed: --help answers at once."""

    lines = COMMANDS

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.lines)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.lines:
            return None
        made = vars(import_module(f"restorectl.cli.{cmd_name}"))[cmd_name]
        if not isinstance(made, typer.Typer):
            single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
            single.command(cmd_name, cls=Command)(made)
            made = single
        return typer.main.get_command(made)


def _show_help(ctx: Any, code: int = 0) -> NoReturn:
    typer.echo(ctx.get_help())
    raise typer.Exit(code)


@contextmanager
def plainly(ctx: Any) -> Iterator[None]:
    """Errors of the parser become one line."""
    try:
        yield
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        said, near = str(error.format_message()).rstrip("."), ""
        if hasattr(error, "possibilities"):
            wrong = str(getattr(error, "option_name", ""))
            said = f"no such option: {wrong}"
            near = did_you_mean(wrong, [name for each in ctx.command.params for name in each.opts])
        raise UsageError(
            f"{ctx.command_path}: {said[:1].lower()}{said[1:]}: see `{ctx.command_path} -h`{near}"
        ) from error


# ---- --config ------------------------------------------------------------------------------------
def _config(args: Sequence[str]) -> str | None:
    """The file that --config names."""
    for word, following in pairwise([*args, ""]):
        if word == "--":
            break
        if word == "--config":
            return following
        if word.startswith("--config="):
            return word.partition("=")[2]
    return None


def _defaults(path: str, command_path: str, declared: Mapping[str, "Option"]) -> dict[str, Any]:
    """The options of one command in a file of defaults, as typer needs them. Raises UsageError."""
    from restorectl.files.strict import read_yaml

    command, where = " ".join(command_path.split()[1:]), f"--config {path}"
    raw = read_yaml(path, where, UsageError)
    if not isinstance(raw, dict):
        raise UsageError(f"{where}: not a mapping of commands to their options")
    for name in raw:
        if str(name).split()[:1] not in ([each] for each in COMMANDS):
            near = did_you_mean(str(name), COMMANDS)
            raise UsageError(f"{where}: '{name}' is not a command{near}")
    section = raw.get(command)
    if section is None:
        return {}
    if not isinstance(section, dict):
        raise UsageError(f"{where}: {command}: not a mapping of options to values")
    known = {
        option.long(name): (name, option)
        for name, option in declared.items()
        if not option.is_argument and name != "config"
    }
    found = {}
    for key, value in section.items():
        if f"--{key}" not in known:
            near = did_you_mean(str(key), [each.removeprefix("--") for each in known])
            raise UsageError(f"{where}: {command}: '{key}' is not an option{near}")
        name, option = known[f"--{key}"]
        found[name] = option.from_yaml(value, f"{where}: {command}: {key}")
    return found


def _title(ctx: Any, words: Sequence[str]) -> str:
    return f"Usage: {' '.join([ctx.command_path, *words])}\n"
