"""restorectl from Python: the same pixels as the commands, read lazily, loaded on first use."""

import json
import subprocess
import sys
import warnings

import numpy as np
import pytest
import tifffile

import restorectl
from restorectl import api
from restorectl.errors import InputError, RestorectlError, UsageError
from restorectl.images.arrays import ArrayImage
from restorectl.jobs import DenoiseJob, RestoreJob, SuperresJob, UncertaintyJob
from tests.command import run
from tests.phantom import camera, volume

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # what the command warns of

OF_FILES = {  # options of commands that an array has no use for
    *("inputs", "output", "axes", "series", "channels", "pattern", "exclude", "shard"),
    *("files_from", "overwrite", "keep_old", "min_age", "defer_for", "min_free", "max_failures"),
    *("fail_fast",),
    *("max_memory", "dry_run", "probe", "json_lines", "quiet", "log_format", "manifest", "debug"),
    *("dask", "step_map", "preview", "guide", "keep_samples", "fit_on", "calibrate", "scale", "to"),
    "pyramid",
}


@pytest.fixture(scope="module")
def stack():
    """(Z, Y, X) uint16."""
    return camera(volume((3, 40, 56), 2, 2.0, "nuclei"), 300, 2, 100, 2, 0)[0]


@pytest.fixture(scope="module")
def restored(stack, tmp_path_factory):
    return command("restore", stack, "ZYX", tmp_path_factory.mktemp("restore"))[0]["a"]


class Lazy:
    """Nothing but a shape, a dtype and slicing; keeps what was asked for."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.asked = array, array.shape, array.dtype, []

    def __getitem__(self, index):
        self.asked.append(self.array[index].shape)
        return self.array[index]


def command(name, array, axes, folder, *words):
    """The results of a command for an array in a TIFF: STEM -> pixels, and its line of JSON."""
    tifffile.imwrite(folder / "a.tif", array, photometric="minisblack")
    where = ("-o", folder / "out") if name != "calibrate" else ()
    done = run(name, folder / "a.tif", *where, "--axes", axes, "--json", *words, check=0)
    made = {path.stem: tifffile.imread(path) for path in folder.glob("out/*.tif")}
    return made, json.loads(done.stdout.splitlines()[0])


def test_importing_it_loads_neither_torch_nor_numpy():
    words = "import sys, restorectl as r; dir(r); print({'numpy', 'torch'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    assert set(restorectl.__all__) <= set(dir(restorectl))
    assert restorectl.restore is api.restore
    with pytest.raises(AttributeError, match="no attribute 'restored'"):
        restorectl.restored  # noqa: B018


@pytest.mark.parametrize("kind", ["numpy", "other byte order", "dask", "zarr", "lazy"])
def test_restore_gives_the_pixels_of_the_command(kind, stack, restored):
    if kind == "dask":
        array = pytest.importorskip("dask.array").from_array(stack, chunks=(2, 32, 32))
    elif kind == "zarr":
        zarr = pytest.importorskip("zarr")
        array = zarr.create_array({}, shape=stack.shape, dtype=stack.dtype, chunks=(1, 32, 32))
        array[:] = stack
    else:
        array = {"numpy": stack, "lazy": Lazy(stack)}.get(kind, stack.astype(">u2"))
    found = restorectl.restore(array, "ZYX")
    assert found.dtype == stack.dtype
    assert np.array_equal(found, restored)
    if kind == "lazy":
        assert all(len(shape) == 2 for shape in array.asked)  # planes or their parts


@pytest.mark.slow
def test_options_mean_the_same(stack, tmp_path):
    words = "--noise gaussian --read-noise 12 --sampler ancestral --steps 2 --seed 5 --context none"
    wanted, _ = command("restore", stack, "ZYX", tmp_path, *words.split(), "--dtype", "float32")
    options = {"noise": "gaussian", "read_noise": 12.0, "sampler": "ancestral", "seed": 5}
    out = np.zeros(stack.shape, np.float32)
    found = restorectl.restore(
        stack, "ZYX", **options, steps="2", context="none", dtype="float32", out=out
    )
    assert found is out
    assert np.array_equal(out, wanted["a"])


@pytest.mark.slow
def test_denoise_of_chosen_channels_with_a_guide(stack, tmp_path):
    guide = np.roll(stack, 1, 2)
    (tmp_path / "guide").mkdir()
    words = ("--method", "mixing", "--steps", 2, "--channels", "0,2", "--mix", "linear")
    tifffile.imwrite(tmp_path / "guide/a.tif", guide, photometric="minisblack", imagej=True,
                     metadata={"axes": "CYX"})  # fmt: skip
    words += ("--mix-weights", "0.4,0.1", "--guide", tmp_path / "guide")
    wanted, _ = command("denoise", stack, "CYX", tmp_path, *words)
    own = {"mix": "linear", "mix_weights": (0.4, 0.1), "guide": guide}
    found = restorectl.denoise(stack, "CYX", channels=[0, 2], method="mixing", steps=2, **own)
    assert np.array_equal(found, wanted["a"])
    assert np.array_equal(found[1], stack[1])


def test_training_on_an_array_and_its_guide(stack, tmp_path):
    quick = {"train_steps": 8, "cache": str(tmp_path / "networks")}
    words = ("--method", "mixing", "--steps", 1, "--guide", "n2v", "--context", "none")
    wanted = command("denoise", stack[0], "YX", tmp_path, *words, "--train-steps", 8)[0]["a"]
    common = {"method": "mixing", "steps": 1, "context": "none"}
    made = api.denoise(stack[0], "YX", guide="n2v", **common, **quick)
    assert np.array_equal(made, wanted)
    assert len(list((tmp_path / "networks").iterdir())) == 1
    for name, value in (("guide", "no"), ("mask", "dots")):
        with pytest.raises(UsageError, match=f"`{name}` {value}: "):
            api.denoise(stack[0], "YX", **common, **{name: value})


@pytest.mark.slow
def test_uncertainty_of_colours(stack, tmp_path):
    colours = np.ascontiguousarray(np.moveaxis(stack // 8, 0, 2).astype(np.uint8))
    tifffile.imwrite(tmp_path / "a.tif", colours, photometric="rgb")
    words = ("--samples", 2, "--steps", 2, "--calibration", "none")
    run("uncertainty", tmp_path / "a.tif", "-o", tmp_path / "out", *words, check=0)
    found = restorectl.uncertainty(colours, "YXS", samples=2, steps=2, calibration="none")
    for name, values in found._asdict().items():
        wanted = tifffile.imread(tmp_path / f"out/a_{name}.tif")
        assert np.array_equal(values, wanted, equal_nan=True), name


@pytest.mark.slow
@pytest.mark.parametrize("method", ["diffusion", "linear"])
def test_superres3d(method, stack, tmp_path):
    wanted, line = command(
        "superres3d", stack, "ZYX", tmp_path, "--spacing", "0.5,0.25,0.25", "--method", method
    )
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = restorectl.superres3d(stack, "ZYX", spacing=(0.5, 0.25, 0.25), method=method)
    assert found.shape == (5, 40, 56)
    assert np.array_equal(found, wanted["a"])
    assert len(told) == len(line["warnings"])
    assert all(each.filename == __file__ for each in told)


@pytest.mark.slow
def test_estimate_noise_says_what_calibrate_says(stack, tmp_path):
    _, line = command("calibrate", stack, "CYX", tmp_path)
    rows = restorectl.estimate_noise(stack, "CYX")
    assert [row["channel"] for row in rows] == [0, 1, 2]
    for row in rows:
        wanted = line["details"]["noise"][str(row["channel"])]["noise"]
        assert {name: row[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("restore", RestoreJob),
        ("denoise", DenoiseJob),
        ("uncertainty", UncertaintyJob),
        ("superres3d", SuperresJob),
    ],
)
def test_every_option_of_a_command_is_taken(name, kind):
    declared = getattr(__import__(f"restorectl.cli.{name}", fromlist=[name]), name).options
    options = {n: o.default for n, o in declared.items() if n not in OF_FILES}
    if name == "denoise":
        from restorectl.cli.denoise import settings

        made = settings(**{n: options.pop(n) for n in api.signature(settings).parameters})
        assert made == {}
    job = api._job(name, kind, "YX", None, options)
    assert job.files == api.Files((), "", axes="YX")
    weights = {"weights": options["weights"]} if name != "superres3d" else {}
    assert job == kind(job.files, **weights)  # defaults are those of the command


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"sampler": "best"}, UsageError, "`sampler` best: use one of ddim, dpmpp"),
        ({"noise": "poisson"}, UsageError, "`noise` poisson: use one of auto, gaussian"),
        ({"strength": -1}, UsageError, "`strength` -1: must be at least 0.0"),
        ({"strength": 11}, UsageError, "`strength` 11: must be at most 10.0"),
        ({"steps": "many"}, UsageError, "`steps` many: use auto or a whole number"),
        ({"steps": 0}, UsageError, "`steps` 0: must be at least 1"),
        ({"step": 3}, TypeError, r"restore\(\) got an unexpected keyword argument 'step'"),
        ({"pattern": "*"}, TypeError, "unexpected keyword argument 'pattern'"),
        ({"channels": [3]}, InputError, r"array: `channels` 3: the image has channels 0..0"),
        ({"out": np.zeros((3, 40, 56))}, UsageError, "out: is float64 3x40x56, but the result is"),
    ],
)
def test_what_cannot_be_meant_is_refused(stack, options, error, text):
    with pytest.raises(error, match=text):
        restorectl.restore(stack, "ZYX", **options)


@pytest.mark.parametrize(
    ("array", "axes", "text"),
    [
        (np.zeros((4, 5)), "ZYX", "array: `axes` ZYX does not fit its shape 4x5"),
        (np.zeros((4, 5)), "XY", "array: axes XY"),
        (np.zeros((4, 5)), "YQ", "use each of T, C, Z, Y, X, S"),
        (np.zeros((4, 5), bool), "YX", "array: has bool pixels"),
        (np.zeros((4, 5), complex), "YX", "array: has complex128 pixels"),
        (np.zeros((0, 5)), "YX", "array: .*no pixels"),
        ([[1, 2], [3, 4]], "YX", "array: is a list without a shape"),
    ],
)
def test_arrays_that_cannot_be_restored_are_refused(array, axes, text):
    with pytest.raises(InputError, match=text):
        ArrayImage(array, axes)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({}, InputError, "array: .*spacing"),
        ({"factor": 9}, UsageError, "`factor` 9: use auto or a number from 1 to 8"),
        ({"factor": "x"}, UsageError, "`factor` x: not a number"),
        ({"spacing": "1,2"}, UsageError, "`spacing` 1,2: use three numbers"),
        ({"factor": 2, "sweeps": "yx"}, UsageError, "`sweeps` yx: use one of both, xz, yz"),
    ],
)
def test_stacks_that_cannot_be_made_isotropic_are_refused(stack, options, error, text):
    with pytest.raises(error, match=text):
        restorectl.superres3d(stack, "ZYX", **options)


def test_what_the_command_warns_of_is_a_warning():
    plane = np.full((40, 40), 7, np.uint16)
    with pytest.warns(UserWarning, match="constant: nothing to restore") as told:
        assert np.array_equal(restorectl.restore(plane, "yx"), plane)
    assert told[0].filename == __file__
    assert issubclass(InputError, RestorectlError)
