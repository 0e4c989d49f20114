"""Every table and figure of the four papers that a command can make, run on small images.

`python tests/benchmarks/bench_papers.py [WORD]` runs the rows (those that contain WORD) in a new
folder and prints, for each, done with its seconds, or why not. `--show` prints the same table
without the runs, `--write` renews restorectl/docs/papers.md with it.
"""

import re
import shlex
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from common import REPOSITORY
from scipy.ndimage import gaussian_filter

from tests import command, phantom
from tests.evaluation.test_study import answers

DOCUMENT = REPOSITORY / "restorectl/docs/papers.md"
SIDE = 64  # px
CHANNELS = ("srh_good", "srh_noisy")  # folders of images with channels
FID = "FID itself: `--metrics fid`, after `restorectl weights import` of the Inception network"
OTHER = "another program's baseline"
UNET = "{c_in: 1, c_out: 1, channels: [8, 8], blocks: 1, embedding: 16}"
CALIBRATOR = "{filters: 4, channels: [8, 8], hidden: 8, output: step, steps: 1000}"
RESNET = "{c_in: 1, width: 4, blocks: [1, 1, 1, 1], hidden: 8, output: step}"
NETS = {  # small networks of the recipes, for rows that train and then use one
    "rscd-paper": "{c_in: 2, dim: 8, init_dim: 8, dim_mults: [1, 2]}",
    "conditional-paper": "{c_in: 2, width: 8, mults: [1, 2], head: 8, dropout: 0.2}",
    "baikal": "{width: 8, mults: [1, 2], blocks: 1, attention: [2], head: 8, groups: 4,"
    " learn_variance: true}",
}
ONE_STEP = (
    " -s optimiser.steps=1 -s optimiser.batch=2 -s optimiser.micro_batch=2 -s data.crop=32"
    " -s validation.every=0 -s validation.keep=last"
)


@dataclass(frozen=True)
class Row:
    """What a paper shows. The commands make it, in order; `cut` shortens those that restore."""

    system: str
    where: str  # table, figure or section
    what: str
    commands: tuple[str, ...] = ()  # without `restorectl`; none: `why` says why not
    cut: str = ""
    why: str = ""  # also what the commands cannot do


def trained(recipe: str, images: str, out: str) -> tuple[str, ...]:
    """Train a network of one call, and use it."""
    return (
        f"train {recipe} {images} -o {out}.safetensors",
        f"denoise noisy -o {out} --method care -w {out}.safetensors",
    )


def rscd(out: str, *options: str) -> tuple[str, ...]:
    return (f"restore noisy -o {out} --sampler rscd --preset paper {' '.join(options)}".rstrip(),)


QUICK = " --strength 0.05"  # few steps
FEW = " --train-steps 8"
PAIRS = "--data clean --input noisy"
NETWORK = " --calibrator network --calibrator-weights steps.safetensors"  # few rounds
CONDITIONAL = "denoise noisy --method conditional --preset paper"
SMALL = f' -s "network.config={UNET}"{ONE_STEP}'
ADM = (
    ' -s "network.config={c_in: 1, c_out: 1, width: 8, mults: [1, 2], blocks: 1, attention: [2],'
    f' head: 8, groups: 4}}"{ONE_STEP}'
)
ROWS = (
    Row("RSCD", "Table 3", "prior as printed: ConvNeXt U-Net, two channels (Algorithm 3)",
        ("train rscd-paper --data srh_good -o printed.safetensors",
         "restore srh_noisy -o printed --sampler rscd --preset paper -w printed.safetensors"),
        " --start-step 5"),
    Row("RSCD", "Table 3", "the same with the small network that restorectl trains",
        ("train srh --data srh_good -o srh.safetensors",),
        f' -s "network.config={UNET.replace("1", "2", 2)}"{ONE_STEP}'),
    Row("RSCD", "Table 3, Algorithm 2", "step calibrator",
        ("train calibrator-resnet50 --data good -o steps.safetensors -s data.channels=1"
         " -s data.range=whitened -s network.config.c_in=1",),
        f' -s "network.config={RESNET}"{ONE_STEP}',
        "here for one whitened channel, as the packaged prior; the published weights:"
        " `restorectl weights import` of the kind rscd-calibrator"),
    Row("RSCD", "section 3.2", "prior for patches of high quality, chosen by a classifier, whose"
        " scores are in selected.scores.csv",
        ("train prior --data noisy --select-hq good -o selected.safetensors",),
        f'{SMALL} -s select.patch=64 -s select.steps=5 -s select.threshold=0'),
    Row("RSCD", "Figure 12", "distribution of steps; T' is their maximum",
        ("calibrate noisy --plot steps.png --csv steps.csv --cover 1",)),
    Row("RSCD", "Table 1, Algorithm 1", "RSCD",
        rscd("rscd"), QUICK + NETWORK),
    Row("RSCD", "Table 1, Algorithm 1", "with a trained calibrator, patch by patch",
        rscd("patch", f"--rounds patch{NETWORK}"),
        QUICK),
    Row("RSCD", "published code", "cap, rounds and offsets of the code",
        ("restore noisy -o official --sampler rscd --preset official",), QUICK),
    Row("RSCD", "Table 1", "no dynamic recalibration", rscd("once", "--recalibrate 0"), QUICK),
    Row("RSCD", "Table 1", "non-parametric noise estimator",
        rscd("nonparametric", "--calibrator nonparametric"), QUICK),
    Row("RSCD", "Table 1", "10 steps fixed", rscd("ten", "--start-step 10")),
    Row("RSCD", "Table 1", "50 steps fixed", rscd("fifty", "--start-step 50"),
        " --start-step 20"),
    Row("RSCD", "Table 1", "linear noise schedule",
        ("train rscd-paper --data srh_good -o linear.safetensors -s levels.schedule=linear",
         "restore srh_noisy -o linear --sampler rscd --preset paper --schedule linear"
         " -w linear.safetensors"), " --start-step 5"),
    Row("RSCD", "Table 1", "calibrator without augmentation",
        ("train calibrator-plain --data good -o plain.safetensors",),
        f' -s "network.config={CALIBRATOR}"{ONE_STEP}'),
    Row("RSCD", "Table 1, Algorithm 4", "conditional diffusion",
        ("train conditional-baseline --data good -o baseline.safetensors",
         "denoise noisy -o baseline --method conditional -w baseline.safetensors --steps 1000"),
        " --steps 10"),
    Row("RSCD", "Tables 1, 2", "CycleGAN",
        trained("cyclegan", "--data good --input noisy", "cyclegan")),
    Row("RSCD", "Tables 1, 2", "synthetic noise",
        trained("unet-synthetic", "--data good", "synthetic")),
    Row("RSCD", "Tables 1, 2", "deep image prior", ("denoise noisy -o dip --method dip",), FEW),
    Row("RSCD", "Tables 1, 2", "median blur", ("denoise noisy -o median --method median",)),
    Row("RSCD", "Tables 1, 2", "RRD", why=f"{OTHER}; `evaluate` scores its results"),
    Row("RSCD", "Table 1", "Frechet distance to images of high quality",
        ("evaluate rscd once ten fifty --reference good --metrics frechet-prior",), why=FID),
    Row("RSCD", "Table 2", "PSNR and SSIM of pairs",
        ("evaluate rscd once ten fifty --target clean --metrics psnr,ssim",),
        why="LPIPS: `--metrics lpips`, after `restorectl weights import` of AlexNet"),
    Row("RSCD", "Table 2, D.3", "pairs that are nearly registered",
        ("evaluate rscd --target clean --metrics psnr,ssim --register rigid",)),
    Row("RSCD", "Figure 3", "too few and too many steps",
        ("restore noisy -o few --sampler rscd --start-step 5",
         "restore noisy -o many --sampler rscd --start-step 100"), " --start-step 10"),
    Row("RSCD", "Figures 6, 14", "blind preference study",
        ("evaluate rscd once ten --input noisy --preference study.html --wording clinical"
         " --pivot rscd --tasks 3 --raters 3 --raters-per-task 2",)),
    Row("RSCD", "Figure 6", "preferences, and agreement of the experts",
        ("evaluate --preference-results anna.json ben.json",)),
    Row("RSCD", "Figures 7, 15", "diagnosis before and after restoration",
        ("evaluate rscd --input noisy --classifier brightness.pt2 --labels labels.csv --trust",)),
    Row("RSCD", "Figures 8, 16", "depth stack",
        ("restore stacks -o stacks_rscd --sampler rscd --preset paper",), QUICK + NETWORK),
    Row("RSCD", "Figure 9", "Frechet distance by depth",
        ("evaluate stacks_rscd --reference good --metrics frechet-prior --by z",), why=FID),
    Row("RSCD", "Figure 10", "where an image is degraded",
        ("restore noisy -o mapped --step-map maps",)),
    Row("DDPM microscopy", "Figure S4", "conditional DDPM with its network, on aligned pairs",
        ("train conditional-paper --data clean --input noisy --register rigid"
         " -o printed_pairs.safetensors",
         f"{CONDITIONAL} -o ddpm_printed -w printed_pairs.safetensors"), " --steps 2"),
    Row("DDPM microscopy", "section 3.2", "weights with the lowest error of restorations, whole"
        " images held out",
        ("train conditional-paper --data clean --input noisy -o lowest.safetensors"
         " -s validation.by=images",),
        f' -s "network.config={NETS["conditional-paper"]}"{ONE_STEP} -s validation.every=1'
        " -s validation.keep=best -s validation.fraction=0.5 -s validation.crops=2"
        " -s validation.crop=32 -s validation.sampled=2 --max-shift 3"),
    Row("DDPM microscopy", "Table S1", "zebrafish: several exposures of each field (in folders"
        " named like the clean image)",
        ("train conditional-paper --data clean --input exposures -s validation.by=images"
         " -o exposures.safetensors",),
        f' -s "network.config={NETS["conditional-paper"]}"{ONE_STEP} --max-shift 3'),
    Row("DDPM microscopy", "Tables 3, 4", "low to high intensity, confocal to Airyscan: results on"
        " the scale of the targets",
        ("train conditional-paper --data clean --input noisy -s data.scale=target"
         " -o high.safetensors", f"{CONDITIONAL} -o ddpm_high -w high.safetensors"), " --steps 2"),
    Row("DDPM microscopy", "Tables 2 to 5", "DDPM", (f"{CONDITIONAL} -o ddpm",), " --steps 10"),
    Row("DDPM microscopy", "Tables 2 to 5", "DDPM-avg",
        (f"{CONDITIONAL} -o average --samples 15",), " --steps 2"),
    Row("DDPM microscopy", "Tables 2 to 5, S3, S4", "median scores and Mood's median test",
        ("evaluate ddpm average --target clean --metrics mae,nrmse,psnr,ssim,pearson",),
        why="MS-SSIM: `--metrics ms-ssim`, from 176 px; LPIPS: see RSCD"),
    Row("DDPM microscopy", "section 4.1", "scaled to the distribution of the training targets",
        ("evaluate ddpm --target clean --metrics mae --scale-to good",)),
    Row("DDPM microscopy", "Table S5", "resolution, and its ratio to the target's",
        ("evaluate ddpm average --target clean --metrics resolution,resolution-ratio",),
        why="in nm, if the files record the pixel size: `--metrics resolution-nm`"),
    Row("DDPM microscopy", "Tables 2 to 5", "U-Net (CARE)", trained("care", PAIRS, "unet")),
    Row("DDPM microscopy", "Tables 2 to 5", "Pix2Pix", trained("pix2pix", PAIRS, "pix2pix")),
    Row("DDPM microscopy", "Tables 2 to 5", "N2V", ("denoise noisy -o n2v --method n2v",), FEW),
    Row("DDPM microscopy", "Tables 2 to 5", "N2V2, HDN, ESRGAN, BM3D",
        why=f"{OTHER}; `evaluate` scores its results"),
    Row("DDPM microscopy", "Figure S1", "scores of means of 1, 2, 3, ... samples",
        (f"{CONDITIONAL} -o average15 --samples 15 --keep-samples samples",
         "evaluate samples --average --target clean"), " --samples 2 --steps 3"),
    Row("DDPM microscopy", "Figure S2", "standard deviation and entropy maps",
        (
            "uncertainty noisy -o maps_ddpm --source conditional --samples 15 --steps 200"
            " --calibration none",
        ),
        " --samples 2 --steps 2"),
    Row("MSDSR", "section 4.1", "masked-slice diffusion of pixels",
        ("train msdsr-paper --data good -o pixels.safetensors",), f"{ADM} -s data.crop=48"),
    Row("MSDSR", "Tables 1, 2", "baseline MS-UNet",
        ("train ms-unet --data good -o ms-unet.safetensors",
         "superres3d thin.tif -o ms_unet.tif -w ms-unet.safetensors --factor 2")),
    Row("MSDSR", "Tables 1, 2", "baseline E2E-UNet",
        ("train e2e-unet --data stacks -o e2e-unet.safetensors",
         "superres3d thin.tif -o e2e_unet.tif -w e2e-unet.safetensors --factor 2"),
        why="N channels: `-s data.channels=N`, `network.config.c_in=2N` and `c_out=N`"),
    Row("MSDSR", "Table 1, Figure 3", "rows of 2D images",
        ("superres3d rows -o rows_made --rows --factor 2",
         "evaluate rows_made --target rows_whole --metrics ssim,psnr"), why=FID),
    Row("MSDSR", "Table 1", "rows of 2D images: MSDSR, nearest neighbour, bilinear",
        ("superres3d rows -o rows_ddim --rows --factor 2 -w pixels.safetensors --preset official",
         "superres3d rows -o rows_nearest --rows --factor 2 --method nearest",
         "superres3d rows -o rows_linear --rows --factor 2 --method linear"), " --overwrite"),
    Row("MSDSR", "Table 2, Figure 4", "MSDSR at x2 (x4, x8 alike)",
        ("superres3d thin.tif -o both.tif --factor 2",)),
    Row("MSDSR", "Table 2", "with the code's noise: another in each slice",
        ("superres3d thin.tif -o ddim.tif --factor 2 -w pixels.safetensors"
         " --slice-noise independent --preset official",), " --steps 2"),
    Row("MSDSR", "Algorithm 1", "all 1000 random steps",
        ("superres3d thin.tif -o ddpm.tif --factor 2 -w pixels.safetensors"
         " --slice-noise independent --preset paper",), " --steps 2"),
    Row("MSDSR", "Table 2", "nearest neighbour, bilinear",
        ("superres3d thin.tif -o nearest.tif --factor 2 --method nearest",
         "superres3d thin.tif -o linear.tif --factor 2 --method linear")),
    Row("MSDSR", "Table 3", "XZ or YZ slices alone",
        ("superres3d thin.tif -o xz.tif --factor 2 --sweeps xz",
         "superres3d thin.tif -o yz.tif --factor 2 --sweeps yz")),
    Row("MSDSR", "Table 4", "Gaussian blur after it",
        ("superres3d thin.tif -o blurred.tif --factor 2 --smooth --no-keep-observed",)),
    Row("MSDSR", "Tables 2 to 4", "SliceFID and its parts",
        ("evaluate both.tif xz.tif yz.tif nearest.tif linear.tif --reference good"
         " --metrics frechet-prior",),
        why="SliceFID itself: `--metrics slice-fid`, or `slice-fid-colour` as in the code, after"
        " importing the Inception network"),
    Row("MSDSR", "Figure 4", "PSNR of the volume and of the planes that were made",
        ("evaluate both.tif --target whole.tif --metrics psnr-volume,psnr-made",)),
    Row("Baikal", "section 3.1", "backbone on clean images, with learned variance",
        ("train baikal --data clean -o backbone.safetensors",
         "denoise noisy -o backbone --method mixing --preset paper -w backbone.safetensors"),
        " --start-step 4 --mix-stop 2",
        "the samplers take the variance between steps, not the learned one"),
    Row("Baikal", "Table 1", "Forward Backward - Noise",
        ("denoise noisy -o fb --method forward-backward --preset paper",), " --start-step 10"),
    Row("Baikal", "Table 1", "Forward Backward - N2V",
        ("denoise noisy -o fb_n2v --method forward-backward --preset paper --guide n2v",),
        f" --start-step 10{FEW}"),
    Row("Baikal", "Table 1", "Mixing - Noise",
        ("denoise noisy -o mixing --method mixing --preset paper",), " --start-step 55"),
    Row("Baikal", "Table 1", "Mixing - N2V",
        ("denoise noisy -o mixing_n2v --method mixing --preset paper --guide n2v",),
        f" --start-step 55{FEW}"),
    Row("Baikal", "Table 1", "Repaint - Noise",
        ("denoise noisy -o repaint --method repaint --preset paper",),
        " --start-step 10 --mix-stop 5"),
    Row("Baikal", "Table 1", "Repaint - N2V",
        ("denoise noisy -o repaint_n2v --method repaint --preset paper --guide n2v",),
        f" --start-step 10 --mix-stop 5{FEW}"),
    Row("Baikal", "AI4Life challenge", "the authors' later entry",
        ("denoise noisy -o challenge --method repaint --preset challenge",),
        " --start-step 15"),
    Row("Baikal", "Table 1", "N2V", ("denoise noisy -o n2v --method n2v",), FEW),
    Row("Baikal", "Table 1", "CARE", trained("care", PAIRS, "care")),
    Row("Baikal", "Table 1", "SSID", why=f"{OTHER}; `evaluate` scores its results"),
    Row("Baikal", "Table 1", "SSIM, MSE and PSNR of maximum projections",
        ("evaluate fb mixing repaint --target clean --metrics ssim,mse,psnr --project max",)),
    Row("Baikal", "Figure 2, left", "starting step",
        ("denoise noisy -o start50 --method forward-backward --preset paper --start-step 50",)),
    Row("Baikal", "Figure 2, centre", "mixing stop and weights",
        ("denoise noisy -o cosine --method mixing --preset paper --mix cosine --mix-stop 20",),
        " --start-step 25"),
    Row("Baikal", "Figure 2, right", "repeats, while mixing stops or repeats do too",
        ("denoise noisy -o repeats --method repaint --preset paper --repeats 10"
         " --below-stop once",), " --start-step 10 --mix-stop 8"),
)  # fmt: skip


def make(folder: Path) -> None:
    """The images that the commands name, and files that users bring."""
    for k in range(2):
        scene = gaussian_filter(phantom.scene("nuclei", (SIDE, SIDE), k), 1.0)
        noisy, clean = phantom.camera(scene, 40, 4.0, 100, 1.6, k)
        # one field of each kind for training: validation and fine scales need 256 px
        field = gaussian_filter(phantom.scene("nuclei", (256, 256), 90 + k), 1.0)
        good = phantom.camera(field, 400, 4.0, 100, 1.6, k)[1]
        pair = np.stack([good, good[::-1]]) * 8
        named = {"noisy": noisy, "clean": clean, "good": good}
        named |= {"srh_noisy": np.stack([noisy, noisy[::-1]]) * 8}
        named |= {f"exposures/{k}": noisy, "rows": clean[:63:2], "rows_whole": clean[:63]}
        for name, image in (named | {"srh_good": pair}).items():
            write(folder / name / f"{k}.tif", image.astype(np.uint16))
    specimen = gaussian_filter(phantom.volume((7, 48, 48), 66, 4.0), (0.6, 1.1, 1.1))
    _, whole = phantom.camera(specimen, 75, 4.0, 120, 1.6, 104)
    write(folder / "whole.tif", whole)
    write(folder / "thin.tif", whole[::2])
    for k in range(2):
        noisy, _ = phantom.camera(specimen[2 * k :][:3], 75, 4.0, 120, 1.6, k)
        write(folder / f"stacks/{k}.tif", noisy)
    (folder / "labels.csv").write_text("0,dark\n1,bright\n")
    classifier(folder / "brightness.pt2")
    for rater, better in (("anna", "ABA"), ("ben", "BBA")):
        answers(folder / f"{rater}.json", rater, better, ["neither"] * 3)


def write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    axes = {2: "YX", 3: "CYX" if path.parent.name in CHANNELS else "ZYX"}[image.ndim]
    tifffile.imwrite(path, image, imagej=True, metadata={"axes": axes})


def classifier(path: Path) -> None:
    """An exported program with logits for dark and bright images."""
    import torch

    class Brightness(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mean = x.mean((1, 2, 3))
            return torch.stack([1 - mean, mean], 1)

    example = (torch.zeros(1, 1, SIDE, SIDE),)
    torch.export.save(torch.export.export(Brightness(), example), path)


def carry_out(row: Row, folder: Path) -> str:
    """Run a row's commands; the result in words."""
    if not row.commands:
        return f"not done: {row.why}"
    start = time.monotonic()
    for text in row.commands:
        words = shlex.split(text)
        alone = len(row.commands) == 1
        if words[0] != "evaluate" and (alone or words[0] != "train"):
            words += shlex.split(row.cut)
        elif words[0] == "train":
            words += shlex.split(ONE_STEP)
            if words[1] in NETS:
                words += ["-s", f"network.config={NETS[words[1]]}"]
        done = command.run(*words, cwd=folder)
        if done.returncode:
            last = (done.stderr.strip() or "no message").splitlines()[-1]
            return f"failed with exit code {done.returncode}: restorectl {text}: {last}"
    return f"done in {time.monotonic() - start:.1f} s"


PAPERS = {
    "RSCD": "Lyu et al., Step-Calibrated Diffusion for Biomedical Optical Image Restoration",
    "DDPM microscopy": "Osuna-Vargas et al., Denoising diffusion models for high-resolution"
    " microscopy image restoration, arXiv 2409.12078",
    "MSDSR": "Jiang et al., Super-resolution of biomedical volumes with 2D supervision",
    "Baikal": "Chaudhary et al., Baikal: Unpaired Denoising of Fluorescence Microscopy Images"
    " using Diffusion Models, MICCAI",
}


def document() -> str:
    """papers.md: the table in Markdown."""
    lines = [
        "# The papers, and the commands that make what they show",
        "",
        "restorectl builds on four systems; help texts and docstrings name them like this:",
        "",
        "| name | paper |",
        "|---|---|",
        *(f"| {name} | {paper} |" for name, paper in PAPERS.items()),
        "",
        "Where a paper and its published code differ, there is an option for each; the default is",
        "what measured best on real images.",
        "",
        "In the commands, `noisy`, `clean` (the same fields) and `good` (other fields of high",
        "quality) are folders of images, `srh_noisy` and `srh_good` such of two channels,",
        "`whole.tif` is a stack and `thin.tif` every second plane of it.",
        "`python tests/benchmarks/bench_papers.py` runs every row on small images.",
        "",
        "| system | table or figure | what | command | not done, or done differently |",
        "|---|---|---|---|---|",
    ]
    for row in ROWS:
        commands = "<br>".join(f"`restorectl {each}`" for each in row.commands)
        lines.append(f"| {row.system} | {row.where} | {row.what} | {commands} | {row.why} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    if sys.argv[1:] == ["--show"]:
        sys.stdout.write(document())
        return
    if sys.argv[1:] == ["--write"]:
        DOCUMENT.write_text(document(), "utf-8")
        return
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    results: Counter[str] = Counter()
    command.forking = True  # every run would take seconds to start
    with tempfile.TemporaryDirectory() as name:
        make(Path(name))
        for row in ROWS:
            if wanted not in f"{row.system} {row.where} {row.what} {' '.join(row.commands)}":
                continue
            result = carry_out(row, Path(name))
            results[re.split(r"[ :]", result)[0]] += 1
            print(f"{row.system} · {row.where} · {row.what}: {result}", flush=True)
    command.server().close()
    print(", ".join(f"{count} {word}" for word, count in results.items()))
    sys.exit(1 if results["failed"] else 0)


if __name__ == "__main__":
    main()
