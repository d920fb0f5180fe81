"""Files that the package includes: the mini base with its model card, and a sample domain to fine-tune the base on."""

from pathlib import Path

_HERE = Path(__file__).parent


def mini_base_folder() -> Path:
    """Returns the folder of the mini base: a class-conditional DiT with its autoencoder in `vae/`, for 64x64 images."""
    return _HERE / "mini"


def sample_domain_folder() -> Path:
    """Returns the folder of the sample domain's OpenMoji images (CC BY-SA 4.0, see LICENSE.md there): 8 class folders
    of 20 PNGs each, 128x128."""
    return _HERE / "openmoji"
