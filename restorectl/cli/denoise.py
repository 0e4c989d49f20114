"""`restorectl denoise`: options -> job -> task -> exit code."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer

from restorectl.catalog import methods
from restorectl.cli import options as opt
from restorectl.cli.options import (
    CAMERA,
    MACHINE,
    SHARED,
    Camera,
    Machine,
    OwnWeights,
    Shared,
    Strength,
    Variance,
    expanded,
)
from restorectl.cli.progress import reporting
from restorectl.errors import UsageError
from restorectl.jobs import DenoiseJob

Method = StrEnum("Method", list(methods("denoise")))  # type: ignore[misc]
Preset = StrEnum("Preset", ["restorectl", "paper"])
Weight = StrEnum("Weight", ["constant", "linear", "cosine", "exponential"])
MixNoise = StrEnum("MixNoise", ["independent", "shared"])
Renoise = StrEnum("Renoise", ["none", "repaint"])

POSTERIOR = Method("posterior")
MIXING = "Methods of paper 004 (forward-backward, mixing, repaint)"

MethodChoice = Annotated[Method, typer.Option(help=opt.choices(methods("denoise")))]
PresetChoice = Annotated[
    Preset,
    typer.Option(help="restorectl: what measured best in few steps · paper: as published."),
]
Samples = Annotated[
    int, typer.Option(metavar="N", help="Restorations that are averaged, in the input's units.")
]
Steps = Annotated[
    str, typer.Option(metavar="auto|N", help="Network calls of one pass over a window.")
]
VarianceChoice = Annotated[
    Variance | None,
    typer.Option(help="posterior: of the noise in stochastic steps; analytic is Bao et al. 2022."),
]
Eta = Annotated[
    float | None,
    typer.Option(min=0.0, max=1.0, help="0: deterministic steps, 1: ancestral ones (DDPM)."),
]
Guide = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="Another method's predictions of the same images, named like them: mixed in, or"
        " started from, in place of the noisy image.",
    ),
]
StartStep = Annotated[
    float | None,
    typer.Option(
        metavar="T",
        help="Step t' of the linear schedule (1000 steps) that the image is taken to. Default:"
        " from the image's noise level.",
        rich_help_panel=MIXING,
    ),
]
Ahead = Annotated[
    float | None,
    typer.Option(
        min=1.0, help="t' as this factor on the image's noise level.", rich_help_panel=MIXING
    ),
]
Mix = Annotated[
    Weight | None,
    typer.Option(help="How the weight of the image falls.", rich_help_panel=MIXING),
]
MixWeights = Annotated[
    str | None,
    typer.Option(
        metavar="FIRST,LAST",
        help="Weight of the image at t' and at the mixing stop, each in [0, 1].",
        rich_help_panel=MIXING,
    ),
]
MixStop = Annotated[
    float | None,
    typer.Option(
        metavar="T", min=0, help="Below this step nothing is mixed in.", rich_help_panel=MIXING
    ),
]
MixNoiseChoice = Annotated[
    MixNoise | None,
    typer.Option(
        help="Noise of the image that is mixed in: new at every step, or the same one.",
        rich_help_panel=MIXING,
    ),
]
Interval = Annotated[
    int | None,
    typer.Option(metavar="U", help="Steps that are repeated together.", rich_help_panel=MIXING),
]
Repeats = Annotated[
    int | None,
    typer.Option(metavar="R", help="How often each interval is taken.", rich_help_panel=MIXING),
]
RenoiseChoice = Annotated[
    Renoise | None,
    typer.Option(
        help="Between repeats: none takes the state as it is, repaint adds the noise again.",
        rich_help_panel=MIXING,
    ),
]


@expanded
def denoise(
    output: opt.Output,
    inputs: opt.Inputs = None,
    method: MethodChoice = POSTERIOR,
    weights: OwnWeights = None,
    preset: PresetChoice = Preset.restorectl,
    samples: Samples = 1,
    steps: Steps = "auto",
    strength: Strength = 1.0,
    guide: Guide = None,
    eta: Eta = None,
    variance: VarianceChoice = None,
    start_step: StartStep = None,
    ahead: Ahead = None,
    mix: Mix = None,
    mix_weights: MixWeights = None,
    mix_stop: MixStop = None,
    mix_noise: MixNoiseChoice = None,
    interval: Interval = None,
    repeats: Repeats = None,
    renoise: RenoiseChoice = None,
    camera: Camera = CAMERA,
    machine: Machine = MACHINE,
    shared: Shared = SHARED,
) -> None:
    """Denoise images by a method of choice: samplers on the prior, or the conditional DDPM.

    Example: restorectl denoise data/ -o denoised/ --method mixing
    """
    given = _given(locals())
    job = DenoiseJob(
        files=opt.files(locals()),
        compute=machine.compute(),
        noise=camera.noise_options(),
        weights=weights,
        steps=opt.automatic("--steps", steps),
        samples=samples,
        strength=strength,
        calibrator=camera.calibrator.value,
        calibrator_weights=camera.calibrator_weights,
        weights_from=machine.weights_from(),
        method=method.value,
        preset=preset.value,
        settings=given,
        guide=guide,
    )
    with reporting(**shared.view()) as report:
        from restorectl.restoration.denoise import denoise as run

        run(job, report)
    raise typer.Exit(report.exit_code())


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that the user gave, as fields of the methods' settings."""
    first, last = _pair(options["mix_weights"])
    given = {
        "eta": options["eta"],
        "variance": _value(options["variance"]),
        "start": options["start_step"],
        "ahead": options["ahead"],
        "mix": _value(options["mix"]),
        "first": first,
        "last": last,
        "stop": options["mix_stop"],
        "shared_noise": _is(options["mix_noise"], MixNoise.shared),
        "interval": options["interval"],
        "repeats": options["repeats"],
        "renoise": _is(options["renoise"], Renoise.repaint),
    }
    return {name: value for name, value in given.items() if value is not None}


def _value(choice: StrEnum | None) -> str | None:
    return None if choice is None else choice.value


def _is(choice: StrEnum | None, wanted: StrEnum) -> bool | None:
    return None if choice is None else choice == wanted


def _pair(text: str | None) -> tuple[float | None, float | None]:
    """--mix-weights as numbers. Raises UsageError."""
    if text is None:
        return None, None
    try:
        first, last = (float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"--mix-weights {text}: use two numbers such as 0.5,0.1") from error
    if not 0 <= last <= 1 or not 0 <= first <= 1:
        raise UsageError(f"--mix-weights {text}: both must lie between 0 and 1")
    return first, last
