"""Levels of windows against noise that is known, and the images made of them."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePath

import numpy as np
import pytest
import tifffile
import torch

from restorectl import catalog
from restorectl.batch import inputs
from restorectl.cli import options
from restorectl.engine.calibrators import level_of
from restorectl.engine.schedule import SCHEDULES, schedule
from restorectl.errors import EngineError, InputError, UsageError
from restorectl.images.header import Header
from restorectl.images.image import open_image, read_provenance
from restorectl.jobs import Files, NoiseOptions
from restorectl.restoration import calibrate, channels, step_map
from restorectl.restoration.channels import ChannelGroup
from restorectl.restoration.neighbours import Neighbours
from restorectl.restoration.planes import Fitted
from restorectl.restoration.step_map import Level, StepCounter
from tests.engine.test_samplers import Known

DATA = Path(__file__).parent.parent / "data"
SIGMA = 12.0  # grey levels
WINDOW_FREE = ("analytic", "nonparametric")  # calibrators that need no weights


def counter(method="analytic", name="rscd"):
    return StepCounter(catalog.CALIBRATORS[method].load()(), name)


def scene(height, width, sigma, seed=0):
    """Smooth structure of 100 to 300 grey levels and white noise; sigma may vary by pixel."""
    y, x = np.mgrid[:height, :width]
    clean = 200 + 60 * np.sin(y / 37) + 40 * np.cos(x / 23 + y / 61)
    noise = np.random.default_rng(seed).normal(size=clean.shape)
    return (clean + sigma * noise).astype(np.float32)


def measured(path, method, noise):
    with open_image(path) as image:
        model = channels.fit(image, 0, noise)
        picked = calibrate.sampled(image.header, 0, None)
        seen = channels.Whitened((model,), (0.0,))
        return model, list(step_map.levels(image, (0,), seen, picked, counter(method)))


@pytest.mark.parametrize("method", WINDOW_FREE)
def test_white_noise_is_measured_within_ten_percent(tmp_path, method):
    tifffile.imwrite(tmp_path / "a.tif", scene(300, 620, SIGMA))
    known = NoiseOptions("gaussian", read_noise=SIGMA)
    model, found = measured(tmp_path / "a.tif", method, known)
    assert [(level.rows, level.cols) for level in found] == [
        ((0, 300), (0, 256)),
        ((0, 300), (256, 620)),
    ]
    for level in found:
        sigma = 2 / (model.high - model.low)  # the whitened noise has a standard deviation of 1
        assert level.sigma == pytest.approx(sigma, rel=0.1)
        assert level.std == pytest.approx(SIGMA, rel=0.1)
        assert level.relative == pytest.approx(1, rel=0.15)
        assert schedule("rscd").sigma(level.steps) == pytest.approx(level.sigma, rel=1e-6)


@pytest.mark.parametrize("method", WINDOW_FREE)
def test_photon_noise_in_input_units(tmp_path, method):
    rng = np.random.default_rng(0)
    photons = scene(256, 256, 0) / 4
    tifffile.imwrite(tmp_path / "a.tif", (3 * rng.poisson(photons) + 50).astype(np.uint16))
    _, (level,) = measured(tmp_path / "a.tif", method, NoiseOptions())
    assert level.std == pytest.approx(3 * np.sqrt(np.median(photons)), rel=0.1)


@pytest.mark.parametrize("method", WINDOW_FREE)
def test_a_window_without_any_noise_is_clean(method):
    measure = partial(level_of, counter(method).calibrator)
    assert measure(np.zeros((1, 64, 64), np.float32)) == 0
    assert measure(np.full((1, 32, 40), 0.3, np.float32)) == pytest.approx(0, abs=1e-6)


def test_an_answer_that_is_no_level_is_an_error():
    with pytest.raises(EngineError, match="invalid noise level"):
        level_of(Known(torch.tensor([torch.nan])), np.zeros((1, 32, 32), np.float32))


def test_small_images_and_bad_pixels(tmp_path):
    image = scene(20, 9, SIGMA)
    tifffile.imwrite(tmp_path / "a.tif", image)
    for method in WINDOW_FREE:
        _, (level,) = measured(tmp_path / "a.tif", method, NoiseOptions("none"))
        assert np.isfinite(level.sigma)
    wide = scene(64, 1200, SIGMA)
    wide[3, 600] = np.nan  # between the blocks that the noise model is fitted on
    tifffile.imwrite(tmp_path / "b.tif", wide)
    with pytest.raises(InputError, match="replace them"):
        measured(tmp_path / "b.tif", "analytic", NoiseOptions())


def test_windows_are_spread_over_planes_and_places():
    header = Header("CZYX", (2, 40, 700, 700), np.dtype(np.uint16))
    every = calibrate.sampled(header, 1, None)
    assert len(every) == 40 * 9
    assert {plane[1] for plane, _ in every} == {1}
    some = calibrate.sampled(header, 1, 80)
    assert len(some) == len(set(some)) == 80
    assert len({plane for plane, _ in some}) == 40
    assert len({window for _, window in some}) == 9
    few = calibrate.sampled(header, 1, 7)
    assert len({plane for plane, _ in few}) == 7
    assert len({window for _, window in few}) > 3


def test_the_recommended_step_covers_99_percent():
    steps = np.concatenate([np.linspace(1, 123, 995), np.full(5, 800.0)])
    assert calibrate.covering(steps, 1000, 0.99) == 130
    assert calibrate.covering(steps, 1000, 1.0) == 800
    assert calibrate.covering(np.zeros(3), 1000, 0.99) == 10
    assert calibrate.covering(np.array([999.7]), 1000, 0.99) == 1000
    assert calibrate.covering(np.array([197.0]), 200, 0.99) == 200


def test_the_option_names_every_schedule():
    assert set(options.SCHEDULES) == set(SCHEDULES)


def test_steps_are_interpolated_between_the_centres_of_windows():
    header = Header("YX", (600, 520), np.dtype(np.uint16))
    windows = step_map.grid(header)
    assert [(w.rows, w.cols) for w in windows] == [
        ((0, 256), (0, 256)),
        ((0, 256), (256, 520)),
        ((256, 600), (0, 256)),
        ((256, 600), (256, 520)),
    ]
    values = (10.0, 30.0, 50.0, 70.0)
    found = [
        Level((0, 0, 0), w.rows, w.cols, 0.1, value, None, 1.0)
        for w, value in zip(windows, values, strict=True)
    ]
    image = step_map.interpolated(found, header)
    assert image.shape == step_map.map_header(header).shape == (10, 9)
    assert image.dtype == np.float32
    assert image[0, 0] == 10  # beyond the outer centres nothing changes
    assert image[0, -1] == 30
    assert image[-1, 0] == 50
    assert image[-1, -1] == 70
    centre = 10 + 20 * (4.5 * 64 - 128) / (388 - 128)  # of the fifth cell, between 128 and 388
    assert image[0, 4] == pytest.approx(centre)
    assert (np.diff(image, axis=0) >= 0).all()
    assert (np.diff(image, axis=1) >= 0).all()


@pytest.mark.slow
def test_a_map_shows_where_the_noise_is(tmp_path):
    sigma = np.where(np.arange(1024) < 512, 5.0, 20.0)
    tifffile.imwrite(
        tmp_path / "a.ome.tif",
        np.stack([scene(512, 1024, sigma, k) for k in range(2)])[:, None],
        metadata={
            "axes": "TCYX",
            "PhysicalSizeX": 0.25,
            "PhysicalSizeXUnit": "µm",
            "PhysicalSizeY": 0.5,
            "PhysicalSizeYUnit": "µm",
        },
    )
    source, target = tmp_path / "a.ome.tif", tmp_path / "maps/a_steps.tif"
    assert step_map.target(tmp_path / "maps", PurePath("a.ome.tif")) == target
    target.parent.mkdir()
    write = step_map.writer(counter())
    with open_image(source) as image:
        model = channels.Whitened((channels.fit(image, 0, NoiseOptions("gaussian")),), (0.0,))
    made = {"command": "restore", "parameters": {"x": 1}, "weights": "w", "input": "i"}
    with open_image(source) as image:
        write(fitted(image, ChannelGroup((0,), model, None, None, {})), [], target, made)
    assert read_provenance(target) == made
    with open_image(target) as image:
        assert (image.header.axes, image.header.shape) == ("TYX", (2, 8, 16))
        assert image.header.dtype == np.float32
        assert image.header.spacing == pytest.approx((None, 32.0, 16.0))
        for plane in image.header.planes:
            steps = image.read(plane)
            quiet, loud = np.median(steps[:, :6]), np.median(steps[:, 10:])
            table = schedule("rscd")
            assert table.sigma(loud) / table.sigma(quiet) == pytest.approx(4, rel=0.15)
    before = target.read_bytes()
    with open_image(source) as image:
        write(fitted(image, ChannelGroup((0,), model, None, None, {})), [], target, made)
    assert target.read_bytes() == before


def fitted(image, group):
    near = Neighbours(None, image, channels.by_plane(image.header, [group]))
    return Fitted(image, image, None, [group], near)


def test_maps_that_would_be_in_the_way_are_refused(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for name in ("nuclei.tif", "filaments.png"):
        shutil.copy(DATA / "noisy" / name, source / name)
    files = Files((str(source),), str(tmp_path / "out"))

    def planned(folder, names=("nuclei.tif",)):
        chosen = replace(files, inputs=tuple(map(str, names)))
        place = inputs.side_folder("step_map", str(folder), chosen.inputs)
        return inputs.resolve(chosen, lambda name: (name, step_map.target(place, name)))

    with pytest.raises(UsageError, match="inside the input folder"):
        planned(source / "maps", [source])
    with pytest.raises(UsageError, match="is a file"):
        planned(source / "nuclei.tif")
    for name in ("a.tif", "a.png"):
        shutil.copy(DATA / "noisy/nuclei.tif", tmp_path / name)
    both = planned(tmp_path / "maps", [tmp_path / "a.tif", tmp_path / "a.png"])
    assert ["would be written to a_steps.tif too" in o.message for o in both.refused] == [True] * 2
    shutil.copy(DATA / "noisy/nuclei.tif", tmp_path / "a_steps.tif")
    both = planned(tmp_path / "out", [tmp_path / "a.tif", tmp_path / "a_steps.tif"])
    assert (len(both.pairs), len(both.refused)) == (0, 2)
