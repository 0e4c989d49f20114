"""`restorectl denoise`: options -> job -> restoration -> exit code."""

from typing import Any

import typer

from restorectl.catalog import methods
from restorectl.cli import options as opt
from restorectl.cli.options import option
from restorectl.errors import UsageError
from restorectl.jobs import DenoiseJob, OwnTraining

OWN = "Methods that train on your images (n2v, noise2noise, dip)"
MIXING = "Methods of Baikal (forward-backward, mixing, repaint)"


def two_weights(option: str, text: str) -> tuple[float, float]:
    """Parse two numbers from 0 to 1. Raises UsageError."""
    try:
        first, last = (float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"{option} {text}: use two numbers such as 0.5,0.1") from error
    if not 0 <= last <= 1 or not 0 <= first <= 1:
        raise UsageError(f"{option} {text}: both must lie between 0 and 1")
    return first, last


def settings(
    *,
    eta: float | None = None,
    variance: str | None = None,
    ahead: float | None = None,
    mix: str | None = None,
    mix_weights: tuple[float, float] | None = None,
    mix_stop: float | None = None,
    mix_noise: str | None = None,
    interval: int | None = None,
    repeats: int | None = None,
    below_stop: str | None = None,
    renoise: str | None = None,
) -> dict[str, Any]:
    """What these options say to a method; None = the preset's."""
    first, last = mix_weights or (None, None)
    found = {
        "eta": eta,
        "variance": variance,
        "ahead": ahead,
        "mix": mix,
        "first": first,
        "last": last,
        "stop": mix_stop,
        "shared_noise": None if mix_noise is None else mix_noise == "shared",
        "interval": interval,
        "repeats": repeats,
        "repeat_below": None if below_stop is None else below_stop == "repeat",
        "renoise": None if renoise is None else renoise == "repaint",
    }
    return {name: value for name, value in found.items() if value is not None}


@opt.command
def denoise(
    *,
    output: str = opt.RESULTS,
    inputs: tuple[str, ...] = opt.INPUTS,
    method: str = option(
        "posterior", "Method of restoration.", choices=methods("denoise"), often=True
    ),
    weights: str | None = opt.OWN_WEIGHTS,
    preset: str = option(
        "restorectl",
        "Settings.",
        choices={
            "restorectl": "those that measured best with few steps",
            "paper": "as published",
            "challenge": "repaint as its authors later used it in the AI4Life challenge",
        },
    ),
    samples: int = option(1, "Number of restorations to average.", min=1, often=True),
    steps: int | None = option(
        "auto", "Network calls per tile and restoration.", parse=opt.automatic, metavar="auto|N"
    ),
    context: str = opt.context("auto"),
    reach: int = opt.REACH,
    orientations: int = opt.ORIENTATIONS,
    strength: float = opt.STRENGTH,
    guide: str | None = option(
        None,
        "Folder with another method's results for the same images, with equal names, or a method"
        " that makes them first, such as n2v: to start from, or to mix in, instead of the noisy"
        " image. For noise2noise: folder of second exposures.",
        metavar="DIR|METHOD",
    ),
    eta: float | None = option(
        None, "Randomness of the steps: 0 none, 1 as in DDPM.", min=0.0, max=1.0
    ),
    variance: str | None = option(
        None,
        "For the method posterior: variance of the noise in random steps; analytic as in Bao et al."
        " 2022.",
        choices=opt.VARIANCES,
    ),
    start_step: float | None = option(
        None,
        "Start from this diffusion step, the same for every image, in place of a measured noise"
        " level: of the linear schedule for the methods of Baikal (t'), of RSCD's for posterior.",
        metavar="T",
        min=1,
    ),
    ahead: float | None = option(
        None, "Start at this multiple of the image's noise level.", panel=MIXING, min=1.0
    ),
    mix: str | None = option(
        None,
        "How the weight of the image decreases over the steps.",
        panel=MIXING,
        choices=("constant", "linear", "cosine", "exponential"),
    ),
    mix_weights: tuple[float, float] | None = option(
        None,
        "Weight of the image at t' and at the last step with mixing, each from 0 to 1.",
        panel=MIXING,
        parse=two_weights,
        metavar="FIRST,LAST",
    ),
    mix_stop: float | None = option(
        None, "Stop mixing below this step.", panel=MIXING, metavar="T", min=0
    ),
    mix_noise: str | None = option(
        None,
        "Noise added to the image before mixing: new in every step, or always the same.",
        panel=MIXING,
        choices=("independent", "shared"),
    ),
    interval: int | None = option(
        None, "Number of steps that are repeated together.", panel=MIXING, metavar="U", min=1
    ),
    repeats: int | None = option(
        None, "How many times each interval is run.", panel=MIXING, metavar="R", min=1
    ),
    below_stop: str | None = option(
        None,
        "Below the step at which mixing stops: go on repeating intervals, or run each once.",
        panel=MIXING,
        choices=("repeat", "once"),
    ),
    renoise: str | None = option(
        None,
        "Between repeats: none goes on from the result, repaint adds the noise of the interval"
        " again.",
        panel=MIXING,
        choices=("none", "repaint"),
    ),
    train_steps: int | None = option(
        None, "Steps of training. Default: about 1,000.", panel=OWN, metavar="N", min=8
    ),
    minutes: float | None = option(
        None, "Train each network for at most so long.", panel=OWN, metavar="M", min=0.01
    ),
    fit_on: str = option(
        "image",
        "Train a network for each image, or one for all images of the run.",
        panel=OWN,
        choices=("image", "folder"),
    ),
    cache: str | None = option(
        None,
        "Keep trained networks in this folder; where one is found, nothing is trained again.",
        panel=OWN,
        metavar="DIR",
    ),
    mask: str = option(
        "auto",
        "Lines that n2v hides with each pixel, since noise is shared along them (structN2V);"
        " auto: as the correlation of the noise is.",
        panel=OWN,
        choices=("auto", "none", "rows", "columns", "cross"),
    ),
    dtype: str = opt.DTYPE,
    calibrator: str = opt.CALIBRATOR,
    calibrator_weights: str | None = opt.CALIBRATOR_WEIGHTS,
    camera: opt.Camera,
    machine: opt.Machine,
    models: opt.Models,
    shared: opt.Shared,
    preview: bool = opt.PREVIEW,
    keep_samples: str | None = option(
        None,
        "Also write each of the restorations that are averaged, to DIR/1, DIR/2 and so on, where"
        " evaluate --average finds them.",
        panel=opt.OUTPUT,
        metavar="DIR",
    ),
) -> None:
    """Denoise images with a choice of published methods; can average several restorations.

    Examples:
        restorectl denoise data/ -o denoised/ --method mixing
        restorectl denoise data/cells.tif -o mean.tif --samples 8
    """
    own = settings(
        eta=eta,
        variance=variance,
        ahead=ahead,
        mix=mix,
        mix_weights=mix_weights,
        mix_stop=mix_stop,
        mix_noise=mix_noise,
        interval=interval,
        repeats=repeats,
        below_stop=below_stop,
        renoise=renoise,
    )
    job = DenoiseJob(
        files=shared.files(inputs, output),
        compute=machine,
        noise=camera,
        weights=weights,
        steps=steps,
        samples=samples,
        strength=strength,
        calibrator=calibrator,
        calibrator_weights=calibrator_weights,
        weights_from=models,
        method=method,
        preset=preset,
        settings=own,
        guide=guide,
        training=OwnTraining(train_steps, minutes, fit_on, cache, mask),
        orientations=orientations,
        start_step=start_step,
        dtype=dtype,
        preview=preview,
        keep_samples=keep_samples,
        context=context,
        reach=reach,
    )
    with shared.reporting() as report:
        from restorectl.restoration.denoise import denoise as run

        run(job, report)
    raise typer.Exit(report.exit_code())
