"""Encoded pictures and PIL images to upright 8-bit RGB: every mode that Pillow reads, nothing black by clipping.

A picture's bytes and the PIL image that they open as give the same pixels. Grey of more than 8 bits is scaled by the
range that its file declares (12-bit TIFF, 16-bit PNG, PGM, ..) or else shows: see `_grey_levels`.
"""

import functools
import io
import logging
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, UnidentifiedImageError

CHANNELS = 3
MOST_PIXELS = 2 * 89_478_485  # where Pillow stops by default; held to also where a library has set that limit aside
# Orientation of a camera's EXIF data -> what turns the picture upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TOLD_OF_EXIF = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")  # entries of `Image.info`
_WIDE_IS_BLACK = 1 << 12  # 16-bit levels below this are a sixteenth of full scale: nearly black
_MASK = 16  # wide levels below this are a mask or 4 bits: as 8 bits they are black
_NOT_OPENED = ("EPS",)  # Pillow has another program run what such a file says
logger = logging.getLogger("lam_jax")


class ImageError(ValueError):
    """An image that cannot be decoded or brought to a size that the vision tower reads."""


def read_rgb(image: bytes | Image.Image | np.ndarray, source: str = "image") -> Image.Image:
    """The upright picture in 8-bit RGB.

    Args:
        image: an encoded file, a PIL image, or uint8 RGB pixels [height, width, 3].
        source: the file or row that the image came from, for error messages.

    Raises:
        ImageError: not an image, empty, truncated, too large, or of grey levels whose range is not known.
    """
    opened = read_upright(image, source)
    try:
        return _to_rgb(opened, source)
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(
            f"{source}: found pixels of mode {opened.mode}, which Pillow cannot convert ({error}), expected a picture "
            "in colour or grey; convert it to 8-bit RGB"
        ) from error


def read_upright(image: bytes | Image.Image | np.ndarray, source: str = "image") -> Image.Image:
    """The decoded picture in its own mode, turned as its EXIF data say; arguments and errors as of `read_rgb`."""
    if isinstance(image, np.ndarray):
        return _of_pixels(image, source)
    opened = image if isinstance(image, Image.Image) else _open(image, source)
    _require_size(opened, source)
    try:
        opened.load()
    except Exception as error:  # Pillow has many ways to say truncated or corrupt
        raise ImageError(
            f"{source}: found an image that cannot be decoded to its end ({error}), expected a complete file; fetch "
            "it again or drop its row"
        ) from error
    return _upright(opened, source)


def read_size(image: bytes, source: str = "image") -> tuple[int, int]:
    """Height and width of an encoded picture from its head, no pixel decoded; as it lies, not as it is turned.

    Raises:
        ImageError: not an image, or without pixels, or with more than are read.
    """
    with _open(image, source) as opened:
        _require_size(opened, source)
        return opened.height, opened.width


def _of_pixels(pixels: UInt8[np.ndarray, "height width 3"] | np.ndarray, source: str) -> Image.Image:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != CHANNELS or 0 in pixels.shape:
        raise ImageError(
            f"{source}: found an array of shape {pixels.shape} and type {pixels.dtype}, expected uint8 [height, "
            "width, 3]; convert it to 8-bit RGB"
        )
    return Image.fromarray(pixels)


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in Image.ID if name not in _NOT_OPENED)


def _open(data: bytes, source: str) -> Image.Image:
    if not data:
        raise ImageError(f"{source}: found 0 bytes, expected an encoded image (PNG, JPEG, ...); check the file")
    try:
        return Image.open(io.BytesIO(data), formats=_formats())
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{source}: found more pixels than Pillow opens ({error}); scale the image down") from error
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{source}: found {len(data)} bytes that begin with {data[:8]!r}, expected an encoded image (PNG, JPEG, "
            "...); replace the file or drop its row"
        ) from error
    except Exception as error:
        raise ImageError(
            f"{source}: found an image whose head cannot be read ({error}), expected a complete file; fetch it again "
            "or drop its row"
        ) from error


def _require_size(image: Image.Image, source: str) -> None:
    """Before any pixel is decoded: a file of a few kilobytes can stand for gigabytes of them."""
    if min(image.size) < 1:
        raise ImageError(
            f"{source}: found an image of {image.height}x{image.width} pixels (height x width), expected at least one "
            "pixel; replace it or drop its row"
        )
    if image.width * image.height > MOST_PIXELS:
        raise ImageError(
            f"{source}: found an image of {image.height}x{image.width} pixels (height x width), expected at most "
            f"{MOST_PIXELS} of them; scale the image down"
        )


def _upright(image: Image.Image, source: str) -> Image.Image:
    """The picture turned; EXIF data that cannot be read count as none, as in picture viewers."""
    try:
        # Only now: of some formats Pillow knows the data, or has turned the picture itself, when it is decoded.
        orientation = image.getexif().get(ExifTags.Base.Orientation)
        turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    except Exception as error:
        _tell_of_broken_exif(source, repr(error))
        turn = None
    if turn is None:
        return image
    turned = image.transpose(turn)
    # What the data say holds no longer; saved with them, the picture would be turned once more.
    turned.info = {name: value for name, value in turned.info.items() if name not in _TOLD_OF_EXIF}
    return turned


@functools.cache
def _say_once(message: str) -> None:
    logger.warning(message)


def _tell_of_broken_exif(source: str, error: str) -> None:
    logger.info("%s: its EXIF data cannot be read (%s): it is taken as it lies.", source, error)
    _say_once("There are pictures with EXIF data that cannot be read: they are taken as they lie, not turned.")


def _to_rgb(image: Image.Image, source: str) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:  # a PNG may name a colour that is none
        return image
    if image.mode == "F":
        return _grey(_float_levels(np.asarray(image), source))
    if image.mode.startswith("I"):
        return _grey(_grey_levels(image, source))
    if image.mode == "La":
        image = image.convert("LA")  # the only mode that Pillow converts this one to
    if image.has_transparency_data:
        # What hides under full transparency is arbitrary, so it is shown on white, as Qwen's own utilities do.
        image = image.convert("RGBA")
        opaque = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(opaque, image)
    return image.convert("RGB")


def _grey(levels: UInt8[np.ndarray, "height width"]) -> Image.Image:
    return Image.fromarray(levels).convert("RGB")


def _grey_levels(image: Image.Image, source: str) -> UInt8[np.ndarray, "height width"]:
    """Integer levels as 8 bits (Pillow itself clips them, which turns most photographs white or black).

    The range is what the file declares, so far as that says something: 12 bits of a TIFF, 16 of PGM and JPEG 2000,
    which Pillow scales to. In 32 bits it is what the levels need, 8 bits or 16; a mask of 0 and 1 is refused. In other
    16-bit files levels that only fill the lowest 12 bits are refused: many programs leave 8 or 12 bits as they are, and
    at full range all is black.
    """
    levels = np.asarray(image).astype(np.int64)
    nothing = levels == image.info.get("transparency", -1)  # the level of a PNG that is shown on white
    low, top = int(levels.min()), int(levels.max())
    if low < 0 or top > 0xFFFF:
        raise ImageError(
            f"{source}: found grey levels from {low} to {top}, expected 0 to 65535; convert it to 8-bit RGB"
        )
    tags: Any = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    if _first(tags.get(ExifTags.Base.BitsPerSample)) == 12 and top < 1 << 12:
        levels = levels >> 4
    elif image.mode != "I" or image.format in ("PNG", "PPM", "JPEG2000") or top > 0xFF:
        if 0 < top < _WIDE_IS_BLACK and image.format not in ("PPM", "JPEG2000"):
            raise ImageError(
                f"{source}: found 16-bit grey levels from {low} to {top}, expected them to fill 0 to 65535: at that "
                "range the picture is black, and which range is meant is not known; convert it to 8-bit RGB"
            )
        levels = levels >> 8
    elif 0 < top < _MASK:
        raise ImageError(
            f"{source}: found 32-bit grey levels from {low} to {top}, expected them to fill 0 to 255: at that range "
            "the picture is black, and which range is meant is not known; convert it to 8-bit RGB"
        )
    if tags.get(ExifTags.Base.PhotometricInterpretation) == 0:  # white is zero; Pillow heeds that up to 8 bits
        levels = 255 - levels
    return np.where(nothing, 255, levels).astype(np.uint8)


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) and value else value


def _float_levels(levels: np.ndarray, source: str) -> UInt8[np.ndarray, "height width"]:
    """Levels in 0..1 or in 0..255 as 8 bits; what lies near neither range is refused."""
    low, top = float(levels.min()), float(levels.max())
    if low >= 0 and low < top <= 1:
        return np.rint(levels * 255).astype(np.uint8)
    if low >= 0 and 16 <= top <= 255:
        return np.rint(levels).astype(np.uint8)
    raise ImageError(
        f"{source}: found floating-point pixels (mode F) from {low:g} to {top:g}, whose range is not known, expected 0 "
        "to 1 or 0 to 255; convert it to 8-bit RGB"
    )
