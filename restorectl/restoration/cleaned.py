"""The image as a restoration reads it: invalid pixels filled in, even, around 0, no stripes."""

from collections.abc import Sequence

from restorectl.batch.outcome import Outcome
from restorectl.images.image import Image
from restorectl.images.masked import Masked, masked
from restorectl.images.near_zero import near_zero
from restorectl.intensity.camera import Camera
from restorectl.jobs import NoiseOptions
from restorectl.restoration import destripe
from restorectl.restoration.camera import region
from restorectl.restoration.restorer import Restorer


def cleaned(
    image: Image,
    channels: Sequence[int],
    noise: NoiseOptions,
    camera: Camera | None,
    *,
    around_zero: bool = True,
) -> tuple[Image, Masked]:
    """The image to restore, and the one below it that knows the invalid pixels.

    around_zero: intensities may be shifted, see `near_zero`. Where nothing is restored, they and
    hot pixels stay. camera: whose maps are used. Raises UsageError, and InputError for maps of
    another size.
    """
    restored = noise.kind != "none"
    hot = noise.hot_pixels == "auto" and restored
    maps = region(camera, image, noise.camera_corner) if restored else None
    known = masked(image, channels, noise.invalid, hot=hot, camera=maps)
    near = near_zero(known, channels) if around_zero and restored else known
    return destripe.destriped(near, channels, noise), known


def for_restorer(image: Image, restorer: Restorer) -> tuple[Image, Masked]:
    """As `cleaned`, with the channels and the options of a job."""
    job, whitened = restorer.job, restorer.card.value_range == "whitened"
    chosen = image.header.chosen(job.files.channels, image.path)
    return cleaned(image, chosen, job.noise, restorer.camera, around_zero=whitened)


def describe(outcome: Outcome, image: Image, known: Masked) -> None:
    """Add to the outcome what was removed, and the counts of invalid pixels, with warnings."""
    destripe.describe(outcome, image)
    if found := known.describe():
        outcome.details["invalid"] = found
        outcome.warnings += known.warnings()
