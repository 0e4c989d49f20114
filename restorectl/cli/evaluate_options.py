"""The options of `evaluate`; the metrics and their help come from the catalog."""

from enum import StrEnum
from typing import Annotated

import typer

from restorectl.catalog import METRICS
from restorectl.cli import options as opt

Scale = StrEnum("Scale", ["none", "affine", "percentile"])
Project = StrEnum("Project", ["none", "max", "mean"])
By = StrEnum("By", ["z"])
SCORING, UNPAIRED, GATES = "Scoring", "Without pairs", "Quality gates"
STUDY, DOWNSTREAM = "Blind preference study", "Downstream checks"

Predictions = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="PRED...",
        help="A folder for each method, or files; folders that `uncertainty` wrote are recognised.",
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        metavar="DIR|FILE", help="The true images, matched by relative path (or its stem)."
    ),
]
Metrics = Annotated[
    str | None,
    typer.Option(
        metavar="a,b,c",
        help="What is computed, for each plane, then averaged over the planes of a file. Default:"
        " mae,nrmse,psnr,ssim,pearson, and what fits the other options. " + opt.choices(METRICS),
        rich_help_panel=SCORING,
    ),
]
DataRange = Annotated[
    float | None,
    typer.Option(
        help="Grey levels from black to white for PSNR, SSIM, LPIPS. Default: of each target, 255"
        " where it has 8 bits, else its largest minus its smallest value.",
        rich_help_panel=SCORING,
    ),
]
ScaleChoice = Annotated[
    Scale,
    typer.Option(
        help="Fit each channel of a prediction to its target first: affine, by least squares;"
        " percentile, the 0.1 and 99.9 percentiles.",
        rich_help_panel=SCORING,
    ),
]
ProjectChoice = Annotated[
    Project, typer.Option(help="Project stacks over z before scoring.", rich_help_panel=SCORING)
]
ByChoice = Annotated[
    By | None, typer.Option("--by", help="Also a score for each depth.", rich_help_panel=SCORING)
]
Average = Annotated[
    bool,
    typer.Option(
        "--average",
        help="PRED are folders of samples, or one folder of such folders: score the mean of the"
        " first 1, 2, 3 ...",
        rich_help_panel=SCORING,
    ),
]
Interval = Annotated[
    float,
    typer.Option(
        help="Nominal share of pixels in STEM_lower..STEM_upper.", rich_help_panel=SCORING
    ),
]
Reference = Annotated[
    str | None,
    typer.Option(
        metavar="HQ_DIR",
        help="Images of high quality, of other fields, for the Frechet distances. Networks see each"
        " file from its 0.1 to its 99.9 percentile or, where it is given, from 0 to --data-range.",
        rich_help_panel=UNPAIRED,
    ),
]
Inception = Annotated[
    str,
    typer.Option(metavar="NAME|FILE", help="Weights for fid, slice-fid.", rich_help_panel=UNPAIRED),
]
Alexnet = Annotated[
    str, typer.Option(metavar="NAME|FILE", help="Weights for lpips.", rich_help_panel=SCORING)
]
Json = Annotated[
    str | None,
    typer.Option(
        "--json",
        metavar="FILE|-",
        help="Write every score in full precision; - takes the place of the tables.",
        rich_help_panel=opt.OUTPUT,
    ),
]
Csv = Annotated[
    str | None,
    typer.Option(
        "--csv", metavar="FILE|-", help="Write one row a prediction.", rich_help_panel=opt.OUTPUT
    ),
]
Report = Annotated[
    str | None,
    typer.Option(
        metavar="FILE.html", help="Write a report with figures.", rich_help_panel=opt.OUTPUT
    ),
]
InputDir = Annotated[
    str | None,
    typer.Option(
        "--input",
        metavar="DIR",
        help="The unrestored images, shown in reports and studies.",
        rich_help_panel=opt.OUTPUT,
    ),
]
FailUnder = Annotated[
    list[str] | None,
    typer.Option(
        metavar="METRIC=N",
        help="Exit 6 if the median of any method is under N, e.g. psnr=30. May be repeated.",
        rich_help_panel=GATES,
    ),
]
FailOver = Annotated[
    list[str] | None,
    typer.Option(
        metavar="METRIC=N", help="The same for over N, e.g. mae=5.", rich_help_panel=GATES
    ),
]
Preference = Annotated[
    str | None,
    typer.Option(
        metavar="FILE.html",
        help="Write a page on which people choose between methods blindly; needs --input.",
        rich_help_panel=STUDY,
    ),
]
PreferenceResults = Annotated[
    bool,
    typer.Option(
        "--preference-results",
        help="PRED are the JSON files of such studies: show shares and agreement.",
        rich_help_panel=STUDY,
    ),
]
Segment = Annotated[
    bool,
    typer.Option(
        "--segment",
        help="Count objects in input, prediction and target.",
        rich_help_panel=DOWNSTREAM,
    ),
]
Classifier = Annotated[
    str | None,
    typer.Option(
        metavar="FILE.pt2",
        help="An exported classifier: what it says before and after. Needs --labels and --trust.",
        rich_help_panel=DOWNSTREAM,
    ),
]
Labels = Annotated[
    str | None,
    typer.Option(metavar="FILE.csv", help="name,label of each file.", rich_help_panel=DOWNSTREAM),
]
Classes = Annotated[
    str | None,
    typer.Option(
        metavar="a,b",
        help="Names of the classifier's outputs in order. Default: the labels, sorted.",
        rich_help_panel=DOWNSTREAM,
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust", help="The classifier may run: it is a program.", rich_help_panel=DOWNSTREAM
    ),
]
