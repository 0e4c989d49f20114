"""Stacks through `superres3d`: with a network that adds nothing they are linear interpolation."""

import hashlib
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from safetensors.torch import save

from restorectl.batch.outcome import Silent
from restorectl.engine.card import KEY, Card
from restorectl.engine.denoiser import build
from restorectl.engine.noise_field import shared
from restorectl.engine.runner import make_runner
from restorectl.engine.samplers import DDIM
from restorectl.errors import UsageError
from restorectl.files import atomic
from restorectl.images import tiles
from restorectl.images.image import open_image, read_provenance
from restorectl.images.pictures import MARGIN, NARROWEST, SCALE, TITLE, WORDS
from restorectl.intensity import value_range
from restorectl.jobs import Compute, Files, SuperresJob
from restorectl.volumes import base, directions, interpolation, preview, superres3d
from restorectl.volumes import volume as volumes
from restorectl.volumes.directions import XZ, NetworkMix, SliceNetwork, StackSlices, StackUnits
from restorectl.weights import file as weights_io
from tests import phantom

CONFIG = {"channels": [8, 8], "blocks": 1, "embedding": 8}
RESIDUAL = Card("silent", "slices", "unet", CONFIG | {"c_in": 3}, parametrisation="x0",
                objective="slices", sigma_max=3.0, anchors="linear")  # fmt: skip


def weights(path: Path, card: Card = RESIDUAL) -> str:
    """A network as it is before training: its output is zero everywhere."""
    torch.manual_seed(0)
    net = build(card).net
    path.write_bytes(save({k: v.contiguous() for k, v in net.state_dict().items()},
                          {KEY: card.to_json()}))  # fmt: skip
    return str(path)


def specimen(shape=(5, 19, 26), channels=None, dtype=np.uint16):
    """Smooth, and different along every axis and towards every end."""
    z, y, x = np.meshgrid(*(np.linspace(0, 1, n) for n in shape), indexing="ij")
    image = 200 + 900 * z**2 + 2500 * y + 6000 * x**3 + 800 * np.sin(9 * x * y)
    if channels:
        image = np.stack([image * (k + 1) for k in range(channels)], 1)  # (Z, C, Y, X)
    return image.astype(dtype)


def run(tmp_path, pixels, card=RESIDUAL, name="in.tif", metadata=None, resolution=None, **options):
    source, out = tmp_path / name, tmp_path / "out"
    axes = "ZYX" if pixels.ndim == 3 else "ZCYX"
    tifffile.imwrite(
        source,
        pixels,
        photometric="minisblack",
        metadata={"axes": axes} | (metadata or {}),
        resolution=resolution,
        imagej=metadata is not None,
    )
    before = hashlib.sha256(source.read_bytes()).hexdigest()
    job = SuperresJob(
        Files((str(source),), str(out), axes=None if metadata or len(pixels) == 1 else axes),
        options.pop("compute", Compute(device="cpu", precision="fp32")),
        weights(tmp_path / "w.safetensors", card),
    )
    outcomes = superres3d.superres3d(replace(job, **options), Silent())
    assert hashlib.sha256(source.read_bytes()).hexdigest() == before, "the input was changed"
    return outcomes[0], out / name


def read(path):
    with open_image(path) as image:
        return np.stack([image.read(p) for p in image.header.planes]).reshape(
            [n for n in image.header.shape]
        )


@pytest.mark.parametrize("sweeps", ["both", "xz", "yz"])
@pytest.mark.parametrize("factor", [2, 3, 5])
def test_orientation_is_kept_and_nothing_is_added_by_a_silent_network(tmp_path, sweeps, factor):
    pixels = specimen()
    outcome, path = run(tmp_path, pixels, factor=factor, sweeps=sweeps, anchor="linear")
    assert outcome.status == "done", outcome.message
    made = read(path)
    assert made.shape == (4 * factor + 1, 19, 26)
    assert made.dtype == np.uint16
    assert np.array_equal(made[::factor], pixels)
    expected = interpolation.interpolated(pixels, factor, interpolation.linear)
    assert np.abs(made - expected).max() <= 1


@pytest.mark.parametrize("method", ["diffusion", "linear"])
def test_a_factor_that_is_no_whole_number(tmp_path, method):
    """A ramp along z stays one; every second recorded plane is a plane of the result."""
    pixels = (np.arange(5)[:, None, None] * 100.0 + specimen()[:1]).astype(np.float32)
    outcome, path = run(tmp_path, pixels, factor=2.5, anchor="linear", method=method)
    assert outcome.status == "done", outcome.message
    made = read(path)
    assert outcome.details["shape_out"] == [11, 19, 26]
    assert np.array_equal(made[::5], pixels[::2])
    ramp = np.arange(11)[:, None, None] * 40 + pixels[0]
    assert np.abs(made - ramp).max() < 0.1


@pytest.mark.parametrize("method", ["diffusion", "cubic"])
@pytest.mark.parametrize("factor", [2, 1.5])
def test_rows_of_images_are_planes_of_a_stack_of_rows(tmp_path, method, factor):
    pixels = specimen((2, 9, 40))
    options = {"factor": factor, "method": method, "anchor": "linear"}
    outcome, path = run(tmp_path, pixels, rows=True, **options)
    assert outcome.status == "done", outcome.message
    made = read(path)
    assert made.shape == (2, 17 if factor == 2 else 13, 40)
    for k, image in enumerate(pixels):
        _, alone = run(tmp_path, image[:, None], name=f"{k}.tif", **options, sweeps="xz")
        assert np.abs(made[k].astype(int) - read(alone)[:, 0]).max() <= 1
    assert np.array_equal(
        made[:, :: 2 if factor == 2 else 3], pixels[:, :: 1 if factor == 2 else 2]
    )
    outcome, _ = run(tmp_path, pixels[:, :1], name="one.tif", rows=True, **options)
    assert "one row" in outcome.message


def test_the_choice_for_rows_compares_with_lines_along_them(tmp_path):
    """A fine grating along x, so that rows vary as little: cubic; noise: no difference."""
    y, x = np.mgrid[:60, :120]
    waves = (1000 + 400 * np.sin(x / 3) + 400 * np.sin(y / 2.5))[None].astype(np.uint16)
    outcome, _ = run(tmp_path, waves, rows=True, factor=2)
    assert outcome.details["mix"]["0"]["cubic"] > 0.9
    assert outcome.details["mix"]["0"]["cubic_over_linear_db"] > 3


@pytest.mark.parametrize("options", [
    {"steps": 3, "sampler": "ancestral", "samples": 2}, {"smooth": True},
    {"sampler": "dpmpp", "slice_noise": "slerp"}, {"anchor": "auto"}, {"strength": 0.5},
])  # fmt: skip
def test_observed_planes_come_back_bit_by_bit(tmp_path, options):
    pixels = np.random.default_rng(0).integers(0, 60000, (4, 17, 18)).astype(np.uint16)
    loud = replace(RESIDUAL, parametrisation="edm")
    outcome, path = run(tmp_path, pixels, loud, factor=4, **options)
    assert outcome.status == "done", outcome.message
    assert np.array_equal(read(path)[::4], pixels)


@pytest.mark.slow
def test_pixels_parametrisation_and_the_one_step_baseline(tmp_path):
    for name in ("slices", "ms-unet"):
        card = replace(RESIDUAL, config=CONFIG | {"c_in": 1}, anchors="", objective=name)
        pixels = specimen()
        outcome, path = run(tmp_path, pixels, card, factor=2)
        assert outcome.status == "done", outcome.message
        made = read(path)
        assert np.array_equal(made[::2], pixels)
        assert not np.array_equal(made[1], pixels[0])


def test_e2e_baseline_takes_powers_of_two(tmp_path):
    card = replace(RESIDUAL, config=CONFIG | {"c_in": 2}, anchors="", objective="e2e-unet")
    outcome, path = run(tmp_path, specimen(), card, factor=4)
    assert outcome.status == "done"
    assert read(path).shape[0] == 17
    outcome, _ = run(tmp_path, specimen(), card, factor=3, files=Files(
        (str(tmp_path / "in.tif"),), str(tmp_path / "three"), axes="ZYX"))  # fmt: skip
    assert outcome.status == "done"  # by way of 4
    assert np.array_equal(read(tmp_path / "three/in.tif")[::3], specimen())


def test_channels_keep_their_place_and_others_are_interpolated(tmp_path):
    pixels = specimen(channels=2)
    outcome, path = run(tmp_path, pixels, factor=2, anchor="linear")
    made = read(path)
    assert made.shape == (9, 2, 19, 26)
    expected = interpolation.interpolated(pixels, 2, interpolation.linear)
    assert np.abs(made - expected).max() <= 1
    files = Files((str(tmp_path / "in.tif"),), str(tmp_path / "one"), axes="ZCYX", channels=(1,))
    outcome, path = run(tmp_path, pixels, factor=2, anchor="linear", files=files)
    assert "channels [0] were interpolated" in outcome.warnings[0]
    assert np.abs(read(tmp_path / "one/in.tif") - expected).max() <= 1


@pytest.mark.parametrize("method", ["nearest", "linear", "cubic"])
def test_plain_interpolation(tmp_path, method):
    pixels = specimen()
    _, path = run(tmp_path, pixels, factor=3, method=method)
    expected = interpolation.interpolated(pixels, 3, getattr(interpolation, method))
    assert np.array_equal(read(path), np.rint(expected).astype(np.uint16))


def test_result_does_not_depend_on_chunks_or_tiles_or_the_disk(tmp_path, monkeypatch):
    pixels = specimen((4, 40, 33))
    loud = replace(RESIDUAL, parametrisation="edm")
    _, path = run(tmp_path, pixels, loud, factor=3, steps=2, slice_noise="independent")
    whole = read(path)
    monkeypatch.setattr(volumes, "CHUNK", 40_000)
    monkeypatch.setattr(directions, "HELD", 0)
    monkeypatch.setattr(atomic, "spooled_zeros", partial(atomic.spooled_zeros, held=0))
    files = Files((str(tmp_path / "in.tif"),), str(tmp_path / "b"), axes="ZYX")
    small = Compute("cpu", "fp32", batch=3)
    run(tmp_path, pixels, loud, factor=3, steps=2, slice_noise="independent", compute=small,
        files=files)  # fmt: skip
    assert np.array_equal(read(tmp_path / "b/in.tif"), whole)
    assert [p.name for p in (tmp_path / "b").iterdir() if p.suffix != ".lock"] == ["in.tif"]


def test_factor_and_spacing_from_an_imagej_file(tmp_path):
    outcome, path = run(tmp_path, specimen(), resolution=(4, 4), anchor="linear",
                        metadata={"spacing": 0.75, "unit": "um"})  # fmt: skip
    assert outcome.details["factor"] == 3
    with open_image(path) as image:
        assert image.header.spacing == pytest.approx((0.25, 0.25, 0.25))
        assert image.header.canonical_shape == (1, 1, 13, 19, 26)


def test_factor_and_spacing_from_an_ome_file(tmp_path):
    source = tmp_path / "in.ome.tif"
    meta = {"axes": "ZYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "PhysicalSizeZ": 2.0}
    tifffile.imwrite(source, specimen(), metadata=meta, ome=True, photometric="minisblack")
    job = SuperresJob(Files((str(source),), str(tmp_path / "out")), method="cubic")
    outcome = superres3d.superres3d(job, Silent())[0]
    assert outcome.details["factor"] == 4
    with open_image(tmp_path / "out/in.ome.tif") as image:
        assert image.header.spacing == (0.5, 0.5, 0.5)
        assert image.header.size("Z") == 17


def test_given_spacing_wins_and_is_written(tmp_path):
    outcome, path = run(tmp_path, specimen(), spacing=(1.0, 0.5, 0.5), method="linear",
                        metadata={"unit": "um"})  # fmt: skip
    assert outcome.details["factor"] == 2
    with open_image(path) as image:
        assert image.header.spacing == pytest.approx((0.5, 0.5, 0.5))


def test_isotropic_stacks_are_copied_and_said_to_be(tmp_path):
    pixels = specimen()
    outcome, path = run(tmp_path, pixels, spacing=(0.5, 0.5, 0.5))
    assert outcome.message == "already isotropic: copied"
    assert outcome.calls == 0
    assert np.array_equal(read(path), pixels)


@pytest.mark.parametrize(("shape", "options", "text"), [
    ((1, 19, 26), {"factor": 2}, "has one plane"),
    ((5, 19, 26), {}, "use `spacing` Z,Y,X or `factor` N"),
    ((5, 19, 26), {"spacing": (20.0, 1.0, 1.0)}, "8 at most"),
])  # fmt: skip
def test_what_cannot_be_restored_fails_in_one_line(tmp_path, shape, options, text):
    outcome, path = run(tmp_path, specimen(shape), **options)
    assert outcome.status == "failed"
    assert text in outcome.message
    assert "\n" not in outcome.message
    assert not path.exists()


@pytest.mark.parametrize("wrong", [{"factor": 9}, {"samples": 0}, {"steps": 0}, {"strength": 1.5}])
def test_numbers_that_cannot_be_meant_are_usage_errors(tmp_path, wrong):
    with pytest.raises(UsageError):
        run(tmp_path, specimen(), **wrong)


def test_preview_carries_provenance_and_a_second_run_skips(tmp_path):
    pixels = specimen((5, 40, 50))
    outcome, path = run(tmp_path, pixels, factor=4, preview=True)
    shown = path.with_name("in_preview.png")
    assert read_provenance(shown) == read_provenance(path)
    with open_image(shown) as image:
        picture = image.read((0, 0, 0))
    made = read(path)
    shades = np.percentile(made[9], preview.PERCENTILES)
    grey = np.rint(255 * np.clip((made[9] - shades[0]) / np.ptp(shades), 0, 1)).astype(np.uint8)
    xy, xz, yz = (made[9], made[:, 20], made[:, :, 25])
    below = MARGIN + TITLE + (TITLE + 40 + MARGIN // 2 + SCALE + WORDS) + MARGIN + 2 * TITLE
    after = picture[below:]
    assert np.array_equal(after[:40, MARGIN : MARGIN + 50], grey)
    for k, (view, (tall, wide)) in enumerate(((xy, (40, 50)), (xz, (17, 50)), (yz, (17, 40)))):
        left = MARGIN + k * (NARROWEST + MARGIN)
        shown = after[:tall, left : left + wide]
        assert np.corrcoef(shown.ravel(), np.clip(view, *shades).ravel())[0, 1] > 0.999
        bar = after[tall + MARGIN // 2, left : left + wide]  # of 20 px
        assert np.array_equal(bar < 128, np.arange(wide) < 20)
    outcome, _ = run(tmp_path, pixels, factor=4, preview=True)
    assert outcome.status == "skipped"


def test_a_planned_run_writes_nothing(tmp_path):
    files = Files((str(tmp_path / "in.tif"),), str(tmp_path / "dry"), axes="ZYX", dry_run=True)
    outcome, _ = run(tmp_path, specimen(), factor=4, files=files, steps=3, samples=2)
    assert outcome.status == "planned"
    assert not (tmp_path / "dry").exists()
    assert outcome.details["windows"] == 19 + 26
    assert outcome.details["calls"] == 45 * 6
    assert outcome.details["bytes"] == 17 * 19 * 26 * 2


def test_smoothly_sampled_stacks_get_cubic_interpolation_alone(tmp_path):
    """Waves that cubic interpolation follows at twice their distance, and linear does not."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in (17, 40, 40)), indexing="ij")
    pixels = (2000 + 1500 * np.sin(z / 2.2 + y / 9) * np.cos(x / 11)).astype(np.float32)
    outcome, path = run(tmp_path, pixels, factor=2)
    mix = outcome.details["mix"]["0"]
    assert (mix["model"], mix["cubic"], mix["linear"]) == (0, 1, 0)
    assert mix["cubic_over_linear_db"] > 3
    np.testing.assert_allclose(
        read(path), interpolation.interpolated(pixels, 2, interpolation.cubic), rtol=1e-5
    )


def test_where_planes_share_nothing_linear_interpolation_is_taken(tmp_path):
    """White planes: of all linear rules the mean of the neighbours is nearest to the mean."""
    pixels = np.random.default_rng(1).normal(500, 50, (12, 40, 40)).astype(np.float32)
    outcome, path = run(tmp_path, pixels, factor=2)
    mix = outcome.details["mix"]["0"]
    assert mix["cubic_over_linear_db"] < -0.3
    assert mix["model"] + mix["linear"] > 0.9
    assert not outcome.warnings
    expected = interpolation.interpolated(pixels, 2, interpolation.linear)
    assert np.sqrt(np.mean((read(path) - expected) ** 2)) < 3


def test_thin_membranes_are_chosen_at_the_true_spacing(tmp_path):
    """Left-out planes say linear here, but at the true spacing cubic is 1.5 dB better."""
    scene = phantom.blur(phantom.volume((29, 96, 96), 1, 1.0, "membranes"), (1.6, 1, 1), 0)
    truth = (1000 * scene).astype(np.float32)

    def gain(observed, factor):
        errors = [np.mean((interpolation.interpolated(observed[::factor], factor, kind)
                           - observed) ** 2)
                  for kind in (interpolation.linear, interpolation.cubic)]  # fmt: skip
        return 10 * np.log10(errors[0] / errors[1])

    assert gain(truth, 4) > 1.5
    assert gain(truth[::4][:7], 2) < 0.3
    outcome, _ = run(tmp_path, truth[::4], factor=4)
    mix = outcome.details["mix"]["0"]
    assert mix["cubic"] > 0.9


def test_a_choice_from_few_planes_is_unsure(tmp_path):
    outcome, _ = run(tmp_path, specimen((3, 40, 40)), factor=2)
    assert outcome.details["mix"]["0"]["unsure"]
    assert any("is unsure" in warning for warning in outcome.warnings)


def test_interpolation_where_nothing_can_be_tested(tmp_path):
    """Rows of 3 px cannot stand in for 13 planes."""
    outcome, path = run(tmp_path, specimen((5, 3, 40)), factor=3)
    mix = outcome.details["mix"]["0"]
    assert (mix["model"], mix["unsure"]) == (0, True)
    assert any("is unsure" in warning for warning in outcome.warnings)
    assert np.array_equal(read(path)[::3], specimen((5, 3, 40)))


@pytest.mark.parametrize("noise", [0.0, 9.0, 400.0])
def test_noise_is_told_from_structure(noise):
    """Structures of two sizes vary by 1 - exp(-d^2 / 2 l^2); white noise by twice its variance."""
    lags = np.arange(1, 7)
    smooth = sum(300 * (1 - np.exp(-0.5 * (lags / length) ** 2)) for length in (1.5, 5.0))
    assert base._noise(smooth + 2 * noise) == pytest.approx(noise, abs=3)


def test_variation_of_a_ramp_is_the_square_of_the_distance():
    ramp = np.arange(40.0).reshape(1, 1, 40, 1) * np.ones((1, 3, 1, 5))
    assert base._variation([ramp], 2, np.array([1, 2, 5])) == pytest.approx([1, 4, 25])


@pytest.mark.slow
def test_windows_of_a_fixed_size_and_joint_channels(tmp_path):
    """The kind of network of MSDSR: two channels make three, 16 px, noise predicted."""
    small = {"width": 32, "mults": [1, 2], "attention": [], "blocks": 1}
    card = Card(
        "srh",
        "slices",
        "adm",
        small,
        parametrisation="eps",
        time="index",
        schedule="cosine",
        objective="slices",
        channels=2,
        sigma_max=20.0,
        window=16,
        value_range="uint16-unit",
        recipe="srh-3",
    )
    pixels = specimen((4, 20, 22), channels=2)
    outcome, path = run(tmp_path, pixels, card, factor=3, steps=2)
    assert outcome.status == "done", outcome.message
    made = read(path)
    assert made.shape == (10, 2, 20, 22)
    assert np.array_equal(made[::3], pixels)
    files = Files((str(tmp_path / "in.tif"),), str(tmp_path / "one"), axes="ZCYX", channels=(1,))
    outcome, _ = run(tmp_path, pixels, card, factor=3, files=files)
    assert outcome.status == "failed"
    assert "2 channels jointly" in outcome.message


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 4])
def test_tiles_leave_no_seams(steps, monkeypatch):
    """The embedded network in tiles of 96 px answers as in one of 320 px, noise included."""
    weights = weights_io.load("slices")
    runner = make_runner(weights.card, weights.tensors, Compute("cpu", "fp32"))
    network = SliceNetwork(runner, weights.card, DDIM.sampler(None, 1), shared, 0, steps)
    observed = phantom.volume((6, 1, 320), 1, 4.0)[None].swapaxes(1, 2).astype(np.float32)
    units = StackUnits(weights.card, (value_range.fit_stack_range([observed]),))
    row = StackSlices(observed, XZ, 0, 1)
    whole = network.fill(row, units, 4, NetworkMix())
    monkeypatch.setattr(
        SliceNetwork, "tiles_of", lambda self, shape: tiles.tile_grid(shape, self.stride, core=96)
    )
    parts = network.fill(row, units, 4, NetworkMix())
    assert len(network.tiles_of((21, 320))) == 3
    assert np.abs(parts - whole).max() < 0.01 * np.ptp(observed)
