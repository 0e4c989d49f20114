"""Recipes: strict keys and types, overrides, and what comes with restorectl."""

import dataclasses
import re

import pytest
import yaml

from restorectl import catalog
from restorectl.errors import UsageError
from restorectl.training import recipe as recipes
from restorectl.training.recipe import Recipe
from restorectl.training.train import SIMULATED

SMALL = {"objective": "prior", "task": "prior"}
FROM_INITIAL = {"network", "parametrisation", "sigma_data", "time"}
SLICES = {"slices", "ms-unet", "e2e-unet"}
READ_BY = {  # sections that only some objectives read; the recipes of others may leave them out
    "blind": {"n2v"},
    "adversary": {"pix2pix", "cyclegan"},
    "degradation": {"unet-synthetic", *SIMULATED},
    "noise": catalog.OBJECTIVES.keys() - SLICES,
    "slices": SLICES,
}


def keys(kind: type) -> dict[str, object]:
    hints = {f.name: f.type for f in dataclasses.fields(kind)}
    return {
        name: keys(hint) if dataclasses.is_dataclass(hint) else None for name, hint in hints.items()
    }


@pytest.mark.parametrize("name", recipes.bundled())
def test_bundled_recipes_are_valid_and_name_every_key(name):
    loaded = recipes.load(name)
    assert loaded.objective in catalog.OBJECTIVES
    raw = yaml.safe_load((recipes.PACKAGED / f"{name}.yaml").read_text("utf-8"))
    for key, inner in keys(Recipe).items():
        if loaded.init and key in FROM_INITIAL:
            assert key not in raw
        elif key not in raw:
            assert loaded.objective not in READ_BY.get(key, catalog.OBJECTIVES), key
        elif inner is None:
            assert key in raw
        else:
            assert raw[key].keys() == inner.keys(), key


def test_the_paper_recipes_are_bundled():
    wanted = {"prior", "calibrator", "finetune", "calibrator-plain", "conditional-baseline"}
    wanted |= {"conditional", "conditional-pairs", "rscd-paper", "calibrator-resnet50"}
    assert wanted | {"conditional-paper", "msdsr-paper", "baikal"} <= set(recipes.bundled())
    assert recipes.load("calibrator-plain").noise.region == 0
    assert recipes.load("calibrator-resnet50").noise.region == 1
    printed = recipes.load("rscd-paper")  # Table 3
    assert (printed.levels.schedule, printed.levels.max_step) == ("cosine", 200)
    assert (printed.loss, printed.optimiser.lr, printed.optimiser.batch) == ("l1", 1e-5, 8)
    assert recipes.load("msdsr-paper").slices.rows == (5, 20)
    assert recipes.load("conditional-paper").network.config["dropout"] == 0.2


@pytest.mark.parametrize("old", recipes.REPLACED)
def test_an_old_name_gives_the_new_one(old):
    with pytest.raises(UsageError, match=f"'{old}': is now ") as caught:
        recipes.load(old)
    new = re.findall(r"[a-z]+-?[a-z0-9]*", str(caught.value).split("is now ")[1])
    assert new[0] in recipes.bundled()


def test_plain_and_parse_are_inverse():
    loaded = recipes.load("calibrator")
    assert recipes.parse(recipes.plain(loaded), "test") == loaded


def test_a_file_and_overrides(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(SMALL), "utf-8")
    loaded = recipes.load(
        str(path), ["optimiser.lr=1e-4", "data.crop=[32, 64]", "data.binning=2", "seed=7"]
    )
    assert loaded.optimiser.lr == 1e-4  # YAML 1.1 reads it as text
    assert loaded.data.crop == (32, 64)
    assert loaded.data.binning == (2,)
    assert loaded.seed == 7


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimiser.rl=1", "unknown key 'optimiser.rl'; did you mean 'optimiser.lr'?"),
        ("optimizer.lr=1", "unknown key 'optimizer'; did you mean 'optimiser'?"),
        ("optimiser.steps=1.5", "'optimiser.steps' must be a int, not 1.5"),
        ("optimiser.steps=true", "'optimiser.steps' must be a int, not True"),
        ("optimiser.lr=fast", "'optimiser.lr' must be a float, not 'fast'"),
        ("data.flips=1", "'data.flips' must be a bool, not 1"),
        ("network.config=3", "'network.config' must be a mapping, not 3"),
        ("levels=3", "'levels' must be a mapping, not 3"),
        ("objective.name=x", "'objective' is a value, not a section"),
        ("optimiser.lr", "use key=value"),
        ("optimiser.micro_batch=5", "a divisor of optimiser.batch"),
        ("noise.target=mean", "'noise.target' must be low-frequency or std"),
        ("data.gamma=[0.6, 0.4]", "'data.gamma' must be a range"),
        ("levels.min=0", "'levels.min' must be above 0"),
        ("degradation.level=[0.5, 0.1]", "'degradation.level' must be a range above 0"),
        ("degradation.poisson=2", "'degradation.poisson' must be between 0 and 1"),
        ("degradation.factors=1", "'degradation.factors' must be factors of at least 2"),
        ("validation.keep=first", "'validation.keep' must be last, or best"),
        ("validation={keep: best, every: 0}", "'validation.keep' must be last, or best with"),
    ],
)
def test_what_cannot_be_meant_is_named(override, message):
    with pytest.raises(UsageError) as caught:
        recipes.load("prior", [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_keys_files_and_broken_yaml(tmp_path):
    with pytest.raises(UsageError, match="the key 'task' is missing"):
        recipes.parse({"objective": "prior"}, "recipe")
    with pytest.raises(UsageError, match=r"no such file, and bundled recipes are: baikal, calib"):
        recipes.load("nothing")
    for text in ("a: [", "- 1"):
        path = tmp_path / "broken.yaml"
        path.write_text(text, "utf-8")
        with pytest.raises(UsageError, match=r"broken\.yaml"):
            recipes.load(str(path))
