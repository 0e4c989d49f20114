"""restorectl: restore microscopy images with diffusion models, from the command line."""

__version__ = "0.1.0"
