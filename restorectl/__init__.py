"""restorectl: restore microscopy images with diffusion models, from the command line or Python.

From Python: `restorectl.restore(array, axes="ZYX")`, and likewise `denoise`, `uncertainty`,
`superres3d`, `estimate_noise`; see `restorectl docs python`. They are imported on first use, so
that `import restorectl` takes no time.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from restorectl.api import denoise, estimate_noise, restore, superres3d, uncertainty

__version__ = "0.2.0"
__all__ = ["denoise", "estimate_noise", "restore", "superres3d", "uncertainty"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'restorectl' has no attribute '{name}'")
    from restorectl import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
