"""Pictures on their way into records: where their bytes lie, whether they can be decoded, and a smaller copy."""

import dataclasses
import io
from pathlib import Path

from PIL import Image, ImageOps

from lam_jax.data.schemas import Where
from lam_jax.models.processor import ImageError, ImageSettings, process_image

MOST_PIXELS = 100_000_000  # of a file that is opened at all; a photograph of a phone has a tenth of it
QUALITY = 90  # of the JPEG that a photograph becomes when it is scaled down
# Decoding and the limits on shape as in training, onto the fewest patches.
_TRIAL = ImageSettings(min_pixels=28 * 28, max_pixels=28 * 28)


@dataclasses.dataclass(frozen=True)
class Slice:
    """Bytes inside a file, such as a member of a tar.

    Attributes:
      file: the file.
      offset, size: of the bytes in there.
    """

    file: Path
    offset: int
    size: int


Picture = Path | Slice | bytes


class PictureError(ValueError):
    """A picture that cannot be used; `reason` is what it is counted under."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def picture_bytes(picture: Picture) -> bytes:
    """The encoded bytes.

    Raises:
      PictureError: they cannot be read, or there are none.
    """
    try:
        if isinstance(picture, bytes):
            data = picture
        elif isinstance(picture, Slice):
            with picture.file.open("rb") as file:
                file.seek(picture.offset)
                data = file.read(picture.size)
            if len(data) < picture.size:
                raise PictureError("broken image", f"{picture.file} ends within it")
        else:
            data = picture.read_bytes()
    except OSError as error:
        raise PictureError("missing image", f"{picture}: {error.strerror}") from error
    if not data:
        raise PictureError("broken image", "no bytes")
    return data


def checked_picture(data: bytes, where: Where, pixels: int | None = None) -> bytes:
    """The bytes of a picture that training can decode, with at most `pixels` pixels if that is given.

    A picture that is small enough keeps its bytes. A larger one is turned upright and both sides are scaled by one
    factor; it becomes a JPEG, or a PNG where parts of it are transparent.

    Raises:
      PictureError: it cannot be decoded to its end, is of a kind that the model's processor refuses, or is too large.
    """
    try:
        with Image.open(io.BytesIO(data)) as opened:
            width, height = opened.size
    except Image.DecompressionBombError as error:
        raise PictureError("image too large", str(error)) from error
    except Exception as error:  # Pillow's plugins raise many kinds on damaged files
        raise PictureError("broken image", f"{len(data)} bytes that begin with {data[:8]!r}") from error
    if width * height > MOST_PIXELS:
        raise PictureError("image too large", f"{width} x {height} pixels, expected at most {MOST_PIXELS}")
    try:
        process_image(data, _TRIAL, str(where))
    except ImageError as error:
        raise PictureError("broken image", str(error)) from error
    except Exception as error:
        raise PictureError("broken image", f"{type(error).__name__}: {error}") from error
    return data if pixels is None or width * height <= pixels else _smaller(data, pixels)


def _smaller(data: bytes, pixels: int) -> bytes:
    with Image.open(io.BytesIO(data)) as opened:
        upright = ImageOps.exif_transpose(opened)
        factor = (pixels / (upright.width * upright.height)) ** 0.5
        size = max(1, int(upright.width * factor)), max(1, int(upright.height * factor))
        kind = "PNG" if upright.has_transparency_data or upright.mode[0] in "IF" else "JPEG"
        if kind == "JPEG" and upright.mode != "RGB":
            upright = upright.convert("RGB")
        elif upright.mode == "P":
            upright = upright.convert("RGBA")
        out = io.BytesIO()
        upright.resize(size, Image.Resampling.LANCZOS).save(
            out, kind, **({"quality": QUALITY} if kind == "JPEG" else {})
        )
    return out.getvalue()
