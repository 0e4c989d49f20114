"""`restorectl train`: options -> job -> training; shows the losses and the time left."""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from restorectl.cli import options as opt
from restorectl.cli.options import argument, option
from restorectl.cli.progress import worded
from restorectl.errors import printable
from restorectl.jobs import MAX_SHIFT, TrainJob

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from restorectl.training.loop import StepResult

SECONDS = 10.0  # between plain lines
RECIPES = Path(__file__).resolve().parent.parent / "recipes"


def recipe_names() -> list[str]:
    """Names of bundled recipes, for shells."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


@opt.command
def train(
    *,
    recipe: str = argument(
        ..., "Name of a bundled recipe, or a YAML file.", "RECIPE", complete=recipe_names
    ),
    data: str = option(..., "Folder of images, with its subfolders.", metavar="DIR", often=True),
    output: str = option(
        ..., "Weights file to write.", "-o", metavar="FILE.safetensors", often=True
    ),
    overrides: tuple[str, ...] = option(
        (),
        "Change a value in the recipe, e.g. optimiser.lr=1e-4.",
        *("-s", "--set"),
        metavar="KEY=VALUE",
        often=True,
    ),
    resume: bool = option(False, "Continue from the last checkpoint of this output.", often=True),
    init: str | None = option(
        None,
        "Model to start from. Default: as in the recipe.",
        metavar=opt.MODEL,
        complete=opt.model_names,
        often=True,
    ),
    select_hq: str | None = option(
        None,
        "Train only on patches that look like those in this folder, as a small classifier judges;"
        " its scores are written to FILE.scores.csv.",
        metavar="POSITIVES",
    ),
    partner: str | None = option(
        None,
        "Train on pairs: folder of noisy images, with the same names as the clean ones in --data;"
        " several versions of cells/1.tif lie in a folder cells/1.",
        "--input",
        metavar="DIR",
        often=True,
    ),
    register: str | None = option(
        None, "Align each clean image with its noisy one.", choices=("rigid", "affine")
    ),
    max_shift: float = option(
        MAX_SHIFT,
        "Leave out pairs that are shifted by more than this, unless noise can be the reason.",
        metavar="PX",
        min=0.0,
    ),
    axes: str | None = opt.AXES,
    models: opt.Models,
    device: str = opt.DEVICE,
    json_lines: bool = option(
        False, "Print one line of JSON per step on standard output.", "--json"
    ),
    quiet: bool = opt.QUIET,
) -> None:
    """Train or fine-tune a model on your own images; can be interrupted and resumed.

    Several processes: torchrun --nproc_per_node 2 -m restorectl train ...

    Examples:
        restorectl train finetune --data clean/ -o mine.safetensors
        restorectl train conditional-pairs --data clean/ --input data/ -o pairs.safetensors
    """
    with viewing(quiet, json_lines) as view:
        from restorectl.training.train import run

        job = TrainJob(
            recipe=recipe,
            data=data,
            output=output,
            overrides=overrides,
            resume=resume,
            init=init,
            device=device,
            axes=axes,
            select_hq=select_hq,
            partner=partner,
            register=register,
            max_shift=max_shift,
            weights_from=models,
        )
        run(job, view)


@dataclass
class View:
    """Implements training.train.TrainingReport: a bar on a terminal, else a line now and then."""

    console: "Console"
    quiet: bool
    json_lines: bool
    bar: "Progress | None"
    task: "TaskID | None" = None
    steps: int = 0
    batch: int = 0
    start: float = 0.0
    first: int = 0  # steps done before this run
    shown: float = 0.0
    loss: float | None = None  # running mean
    validation: float | None = None

    def begin(self, steps: int, done: int, batch: int) -> None:
        self.steps, self.first, self.batch, self.start = steps, done, batch, time.monotonic()
        if self.bar is not None:
            self.task = self.bar.add_task("", total=steps, completed=done)
        if done:
            self.note(f"resumed after step {done}")

    def note(self, text: str) -> None:
        if not self.quiet:
            self.console.print(
                printable(worded(text)), markup=False, highlight=False, soft_wrap=True
            )

    def step(self, step: "StepResult") -> None:
        self.loss = step.loss if self.loss is None else 0.98 * self.loss + 0.02 * step.loss
        self.steps = step.steps
        if self.json_lines:
            sys.stdout.write(json.dumps(asdict(step)) + "\n")
        now = time.monotonic()
        pace = (step.number - self.first) / max(now - self.start, 1e-9)
        text = f"loss {self.loss:.4g}  lr {step.lr:.3g}  {pace * self.batch:.0f} crops/s"
        if self.validation is not None:
            text += f"  validation {self.validation:.4g}"
        text += f"  {_duration((self.steps - step.number) / pace)} left"
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, total=self.steps, completed=step.number, description=text)
        elif now - self.shown > SECONDS or step.number == self.steps:
            self.shown = now
            self.note(f"step {step.number}/{self.steps}  {text}")

    def validated(self, number: int, loss: float, error: float | None) -> None:
        self.validation = loss
        line, text = {"number": number, "validation": loss}, f"validation loss {loss:.5g}"
        if error is not None:
            line["error"], text = error, f"{text}, mean absolute error {error:.5g}"
        if self.json_lines:
            sys.stdout.write(json.dumps(line) + "\n")
        self.note(f"step {number}: {text}")

    def saved(self, path: Path, number: int) -> None:
        self.note(f"step {number}: saved {path}")


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


@contextmanager
def viewing(quiet: bool, json_lines: bool) -> Iterator[View]:
    """Shows one run; of several processes only the first prints."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True, force_terminal=sys.stderr.isatty())
    quiet = quiet or os.environ.get("RANK", "0") != "0"
    json_lines = json_lines and os.environ.get("RANK", "0") == "0"
    if quiet or not console.is_terminal:
        yield View(console, quiet, json_lines, None)
        return
    with Progress(
        BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), console=console
    ) as bar:
        yield View(console, quiet, json_lines, bar)
