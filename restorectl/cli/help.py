"""`restorectl help COMMAND`: the same as `restorectl COMMAND --help`."""

import typer

from restorectl.cli import options as opt
from restorectl.cli.commands import COMMANDS
from restorectl.cli.options import argument


@opt.command
def help(
    *,
    command: tuple[str, ...] = argument(
        (), "Whose help. Default: all commands.", "[COMMAND]", complete=lambda: COMMANDS
    ),
) -> None:
    """Show the help of a command.

    Examples:
        restorectl help
        restorectl help weights pull
    """
    from restorectl.cli.app import app

    typer.main.get_command(app)([*command, "--help"], prog_name="restorectl")
