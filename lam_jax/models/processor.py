"""Images to the patch rows that the vision towers read.

n: patches of one image (t * h * w of its grid), C: colour channels, T: frames in a temporal patch, p: patch side,
m: side of a merge group in patches.

Resizing, normalisation and patch order equal transformers' `Qwen2VLImageProcessorPil` bit for bit on 8-bit RGB images
(a test compares them); the arithmetic is done here because that class spends more than a millisecond an image on
argument handling, which is twenty times what a small image itself costs.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from lam_jax.models.decoding import CHANNELS, ImageError, read_rgb, read_upright
from lam_jax.models.image_settings_file import image_settings_file, read_image_fields, unusable

Grid = tuple[int, int, int]


@dataclass(frozen=True)
class ImageSettings:
    """How images are resized, normalised and cut into patches.

    size: (height, width) in pixels that every image is stretched to; None keeps the aspect ratio and rounds both sides
        to whole merge groups with `min_pixels <= height * width <= max_pixels`.
    """

    patch_size: int = 14
    merge_size: int = 2
    temporal_patch_size: int = 2
    min_pixels: int = 56 * 56
    max_pixels: int = 28 * 28 * 1280
    size: tuple[int, int] | None = None
    mean: tuple[float, ...] = tuple(OPENAI_CLIP_MEAN)
    std: tuple[float, ...] = tuple(OPENAI_CLIP_STD)

    def __post_init__(self) -> None:
        for name in ("patch_size", "merge_size", "temporal_patch_size", "min_pixels"):
            if getattr(self, name) < 1:
                raise ValueError(f"ImageSettings.{name} is {getattr(self, name)}; expected a positive integer")
        if self.max_pixels < max(self.min_pixels, self.factor**2):
            raise ValueError(
                f"ImageSettings.max_pixels is {self.max_pixels}; expected at least min_pixels ({self.min_pixels}) and "
                f"one merge group ({self.factor**2} pixels)"
            )
        if self.size is not None and (min(self.size) < 1 or any(side % self.factor for side in self.size)):
            raise ValueError(
                f"ImageSettings.size is {self.size} (height, width); expected positive multiples of {self.factor} "
                "(patch_size * merge_size)"
            )
        if len(self.mean) != CHANNELS or len(self.std) != CHANNELS or min(self.std) <= 0:
            raise ValueError(
                f"ImageSettings.mean {self.mean} and std {self.std}: expected {CHANNELS} values each, std above zero"
            )

    @property
    def factor(self) -> int:
        """Pixels that a merge group covers along one side."""
        return self.patch_size * self.merge_size

    @property
    def patch_dim(self) -> int:
        """Values in one patch row."""
        return CHANNELS * self.temporal_patch_size * self.patch_size**2

    def target_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) in pixels that an image of this size is resized to; ValueError beyond aspect ratio 200."""
        if self.size is not None:
            return self.size
        return smart_resize(height, width, self.factor, self.min_pixels, self.max_pixels)

    def grid(self, height: int, width: int) -> Grid:
        """(t, h, w) in patches of an image of this size in pixels."""
        height, width = self.target_size(height, width)
        return 1, height // self.patch_size, width // self.patch_size


def image_tokens(grid: Grid, merge_size: int = 2) -> int:
    """Image-placeholder tokens that an image of `grid` (t, h, w in patches) takes in a row."""
    t, h, w = grid
    return t * h * w // merge_size**2


def read_image_settings(folder: str | Path) -> ImageSettings:
    """The settings in a Hugging Face folder, in whichever file and under whichever names its transformers kept them.

    Limits of the size that stand beside the other keys count before those under `size`, as in transformers; where they
    differ a warning names both.

    Raises:
        FileNotFoundError: no such file.
        ImageError: the file is damaged, or holds settings that cannot be or that this processor does not have.
    """
    fields = read_image_fields(folder)
    try:
        return ImageSettings(**fields)
    except ValueError as error:
        raise unusable(image_settings_file(folder) or Path(folder), str(error)) from error


def process_image(
    image: bytes | Image.Image | np.ndarray, settings: ImageSettings, source: str = "image"
) -> tuple[Float32[np.ndarray, "n patch"], Grid]:
    """Decodes, resizes, normalises and cuts one image.

    Args:
        image: an encoded file, a PIL image, or uint8 RGB pixels [height, width, 3].
        source: the file or row that the image came from, for error messages.

    Returns:
        patches: float32 [n, C*T*p*p], the m*m patches of a merge group next to each other, groups row by row.
        grid: (t, h, w) in patches; t is 1.

    Raises:
        ImageError: not an image, truncated, too large, of grey levels whose range is not known, or of an aspect ratio
            above 200.
    """
    rgb = read_rgb(image, source)
    try:
        height, width = settings.target_size(rgb.height, rgb.width)
    except ValueError as error:
        raise _too_long(rgb, source) from error
    if (rgb.height, rgb.width) != (height, width):
        rgb = rgb.resize((width, height), Image.Resampling.BICUBIC)
    patches = cut_patches(np.asarray(rgb), settings)
    return patches, (1, height // settings.patch_size, width // settings.patch_size)


def read_grid(image: bytes, settings: ImageSettings, source: str = "image") -> Grid:
    """(t, h, w) in patches that `process_image` gives an encoded image; raises what that does."""
    opened = read_upright(image, source)
    try:
        return settings.grid(opened.height, opened.width)
    except ValueError as error:
        raise _too_long(opened, source) from error


def _too_long(image: Image.Image, source: str) -> ImageError:
    return ImageError(
        f"{source}: found an image of {image.height}x{image.width} pixels (height x width), expected an aspect ratio "
        "of at most 200; crop it, or set ImageSettings.size to stretch every image"
    )


def cut_patches(pixels: UInt8[np.ndarray, "height width 3"], settings: ImageSettings) -> Float32[np.ndarray, "n patch"]:
    """Normalised patch rows of an image whose sides are whole merge groups."""
    height, width, _ = pixels.shape
    p, m, frames = settings.patch_size, settings.merge_size, settings.temporal_patch_size
    groups = pixels.reshape(height // (p * m), m, p, width // (p * m), m, p, CHANNELS)
    # [rows of groups, columns of groups, m, m, C, p, p], still as bytes: permuting those is a quarter of the traffic.
    groups = np.ascontiguousarray(groups.transpose(0, 3, 1, 4, 6, 2, 5)).reshape(-1, CHANNELS, p * p)
    mean, std = np.asarray(settings.mean, np.float32)[:, None], np.asarray(settings.std, np.float32)[:, None]
    rescaled = (groups * (1 / 255)).astype(np.float32)  # in double precision first, as the reference does
    values = (rescaled - mean) / std
    patches = np.repeat(values[:, :, None], frames, axis=2)  # a still image fills every frame
    return patches.reshape(len(groups), settings.patch_dim)
