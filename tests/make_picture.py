"""Write the picture at the top of README.md: `python -m tests.make_picture`, in about a minute."""

import tempfile
from pathlib import Path

import imageio.v3 as iio
import numpy as np

from restorectl.images.pictures import GREYS, Panel, draw_panels, pixel_size
from tests.command import run
from tests.documents import DOCS, ROOT
from tests.make_data import PIXEL

PICTURE = DOCS / "before-after.png"
NAME = "filaments.png"
CROP = np.s_[32:224, 32:224]


def main() -> None:
    noisy, true = (
        iio.imread(ROOT / "tests/data" / kind / NAME)[CROP] for kind in ("noisy", "clean")
    )
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        iio.imwrite(place / "a.png", noisy)
        run("restore", "a.png", "-o", "restored.png", cwd=place, check=0)
        run("uncertainty", "a.png", "-o", "maps", cwd=place, check=0)
        restored = iio.imread(place / "restored.png")
        lower, upper = (iio.imread(place / "maps" / f"a_{end}.tif") for end in ("lower", "upper"))
    low, high = 0, float(np.quantile(noisy, 0.998))
    shown = {"noisy": noisy, "restored": restored, "true": true}
    panels = [
        Panel(title, image, low, high, GREYS, pixel=pixel_size(PIXEL) if title == "noisy" else None)
        for title, image in shown.items()
    ]
    bars = (upper - lower) / 2
    panels.append(
        Panel("error bar (90 %): plus or minus", bars, 0, float(np.quantile(bars, 0.998)))
    )
    iio.imwrite(PICTURE, draw_panels({"": panels}), optimize=True)


if __name__ == "__main__":
    main()
