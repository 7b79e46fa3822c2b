"""Pictures of every mode, orientation and size: bytes and opened images alike, none black by clipping, none a crash."""

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from lam_jax.agents.prompts import prompt_of
from lam_jax.models import decoding
from lam_jax.models.decoding import ImageError, read_rgb

RAMP = np.linspace(0, 255, 28 * 28).round().astype(np.uint8).reshape(28, 28)


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def both_ways(data: bytes) -> np.ndarray:
    """The pixels of encoded bytes, the same from the opened image and from one that an agent is asked about."""
    found = np.asarray(read_rgb(data))
    np.testing.assert_array_equal(np.asarray(read_rgb(Image.open(io.BytesIO(data)))), found)
    (again,) = prompt_of("What?", Image.open(io.BytesIO(data)), "question").images
    np.testing.assert_array_equal(np.asarray(read_rgb(again)), found)
    return found


def assert_ramp(pixels: np.ndarray, within: int = 1) -> None:
    assert pixels.shape == (28, 28, 3)
    assert np.abs(pixels.astype(int) - RAMP[..., None]).max() <= within


@pytest.mark.parametrize(
    "levels",
    [
        RAMP.astype(np.int32),  # 0..255 in 32 bits
        RAMP.astype(np.int32) * 256 + 128,
        RAMP.astype(np.float32),
        RAMP.astype(np.float32) / 255,
        RAMP.astype(np.uint16) * 256 + 128,
    ],
    ids=["I_8", "I_16", "F_255", "F_1", "I;16"],
)
def test_grey_in_wide_types_is_scaled_by_its_range(levels):
    image = Image.fromarray(levels)
    assert_ramp(np.asarray(read_rgb(image)))
    assert_ramp(both_ways(encode(image, "TIFF")))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_moving_pictures_and_pages_the_first_is_shown(kind):
    frames = [Image.new("RGB", (28, 28), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == 3
    np.testing.assert_array_equal(both_ways(data), np.broadcast_to([255, 0, 0], (28, 28, 3)))


def test_big_endian_and_pgm_and_png_of_sixteen_bits():
    wide = Image.fromarray(RAMP.astype(np.uint16) * 257)
    assert_ramp(both_ways(encode(wide)))
    big = Image.frombytes("I;16B", (28, 28), (RAMP.astype(int) * 257).astype(">u2").tobytes())
    assert_ramp(np.asarray(read_rgb(big)))
    assert_ramp(both_ways(b"P5 28 28 65535\n" + (RAMP.astype(int) * 257).astype(">u2").tobytes()))
    # Pillow scales a PGM by the range in its head.
    assert_ramp(both_ways(b"P5 28 28 1023\n" + (RAMP.astype(int) * 4).astype(">u2").tobytes()), within=2)


def twelve_bits(levels: np.ndarray) -> bytes:
    """A TIFF of 12 bits a pixel, written by hand: two pixels in three bytes."""
    flat = levels.reshape(-1, 2).astype(int)
    packed = np.stack([flat[:, 0] >> 4, (flat[:, 0] & 15) << 4 | flat[:, 1] >> 8, flat[:, 1] & 255], 1)
    strip = packed.astype(np.uint8).tobytes()
    entries = [
        (256, 3, 28), (257, 3, 28), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (278, 3, 28),
        (279, 4, len(strip)),
    ]  # fmt: skip
    ifd = struct.pack("<H", len(entries))
    ifd += b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    return b"II*\0" + struct.pack("<I", 8 + len(strip)) + strip + ifd + bytes(4)


def test_a_tiff_of_twelve_bits_has_the_range_that_it_declares():
    assert_ramp(both_ways(twelve_bits(RAMP.astype(int) * 16)))


def test_white_is_zero_is_turned_in_sixteen_bits_as_in_eight():
    inverse = 65535 - RAMP.astype(np.uint16) * 257
    for levels in (RAMP, inverse):  # of 8 bits Pillow turns the levels itself when it writes
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[262] = 0
        data = encode(Image.fromarray(levels), "TIFF", tiffinfo=tags)
        with Image.open(io.BytesIO(data)) as written:
            assert written.tag_v2[262] == 0
        assert_ramp(both_ways(data))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.fromarray((RAMP > 127).astype(np.int32)), "32-bit grey levels from 0 to 1.*black.*8-bit RGB"),
        (Image.fromarray((RAMP // 17).astype(np.int32)), "32-bit grey levels from 0 to 15.*black"),
        (Image.fromarray(RAMP.astype(np.uint16)), "16-bit grey levels from 0 to 255.*black.*8-bit RGB"),
        (Image.fromarray(np.full((28, 28), 128, np.uint16)), "from 128 to 128"),
        (Image.fromarray(RAMP.astype(np.uint16) * 16), "from 0 to 4080"),
        (Image.fromarray(RAMP.astype(np.int32) * 1000), "from 0 to 255000"),
        (Image.fromarray(RAMP.astype(np.int32) - 1), "from -1 to 254"),
        (Image.fromarray(RAMP.astype(np.float32) * 1000), "mode F.*from 0 to 255000"),
        (Image.fromarray(RAMP.astype(np.float32) / 127), "from 0 to 2.00787"),
        (Image.fromarray(np.where(RAMP == 7, np.nan, RAMP).astype(np.float32)), "mode F.*nan"),
        (Image.fromarray(RAMP.astype(np.float32) - 9), "from -9 to 246"),
    ],
)
def test_a_range_that_is_not_known_is_refused_with_the_row(image, message):
    for form in (image, encode(image, "TIFF")):
        with pytest.raises(ImageError, match=f"(?s)row 3: found .*{message}"):
            read_rgb(form, "row 3")


def test_black_in_wide_types_is_black():
    for kind in (np.uint16, np.int32):
        assert not np.asarray(read_rgb(Image.fromarray(np.zeros((28, 28), kind)))).any()


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "PA", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"]
)
def test_every_other_mode_shows_what_it_holds(mode):
    grey = Image.fromarray(np.where(RAMP > 127, 255, 0).astype(np.uint8))
    whole = {"La": "LA", "RGBa": "RGBA"}.get(mode, mode)
    if mode == "LAB":
        image = Image.merge("LAB", (grey, *[Image.new("L", grey.size, 128)] * 2))
    elif mode in ("HSV", "PA"):
        image = grey.convert("RGB").convert("HSV") if mode == "HSV" else grey.convert("P").convert("PA")
    else:
        image = grey.convert(whole) if whole in ("1", "L", "LA") else grey.convert("RGB").convert(whole)
        image = image if whole == mode else image.convert(mode)
    assert image.mode == mode
    found = np.asarray(read_rgb(image)).astype(int)
    assert np.abs(found - np.asarray(grey.convert("RGB"))).max() <= 3
    (asked,) = prompt_of("What?", image, "question").images
    np.testing.assert_array_equal(np.asarray(read_rgb(asked)), found)


CORNERS = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_turn_bytes_and_opened_images_alike(kind, orientation):
    """The EXIF standard says where the first stored row and column are shown: 6 is "0th row right, 0th column top"."""
    image = Image.new("RGB", (56, 28), (0, 0, 255))
    image.paste((255, 0, 0), (0, 0, 14, 14))  # the stored top left corner
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    pixels = both_ways(encode(image, kind, exif=exif, **options))
    assert pixels.shape[:2] == ((28, 56) if orientation < 5 else (56, 28))
    red = pixels[CORNERS[orientation]]
    assert red[0] > 200
    assert red[2] < 60


def test_an_orientation_set_on_an_opened_image_counts_and_an_upright_copy_is_not_turned_again():
    image = Image.new("RGB", (56, 28))
    image.getexif()[0x0112] = 6
    turned = read_rgb(image)
    assert turned.size == (28, 56)
    assert read_rgb(turned).size == (28, 56)


@pytest.mark.parametrize("value", [0, 9, 60000, "six", b"\x06"])
def test_an_orientation_that_is_none_turns_nothing(value):
    image = Image.new("RGB", (56, 28))
    image.getexif()[0x0112] = value
    assert read_rgb(image).size == (56, 28)


def test_broken_exif_leaves_the_picture_as_it_lies_and_says_so(caplog):
    decoding._say_once.cache_clear()
    for junk in (b"Exif\0\0junk", b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xff" * 40, b"Exif\0\0MM\0"):
        data = encode(Image.new("RGB", (56, 28)), "JPEG", exif=junk)
        assert read_rgb(data).size == (56, 28)
        assert read_rgb(Image.open(io.BytesIO(data))).size == (56, 28)
    assert caplog.text.count("EXIF data that cannot be read") <= 1


def png_head(width: int, height: int) -> bytes:
    """A PNG that says how large it is and holds next to nothing."""
    chunk = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))  # noqa: E731
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (png_head(100_000, 100_000), "scale the image down"),
        (png_head(0, 10), "found"),
        (png_head(20, 20), "found"),
        (b"GIF89a" + bytes(6), "found"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "expected an encoded image"),
    ],
)
def test_bombs_and_fragments_are_refused_with_the_row(data, message):
    with pytest.raises(ImageError, match=f"rows.json, row 5: .*{message}"):
        read_rgb(data, "rows.json, row 5")


def test_the_limit_holds_where_pillows_was_set_aside_and_for_lazily_opened_images(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    for form in (png_head(100_000, 100_000), Image.open(io.BytesIO(png_head(100_000, 100_000)))):
        with pytest.raises(ImageError, match=r"100000x100000 pixels .*scale the image down"):
            read_rgb(form)


def test_an_opened_image_that_is_cut_off_is_refused_as_its_bytes_are():
    data = encode(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)), "JPEG")[:-900]
    for form in (data, Image.open(io.BytesIO(data))):
        with pytest.raises(ImageError, match="cannot be decoded to its end"):
            read_rgb(form)


def test_damaged_files_of_many_kinds_are_errors_of_one_kind():
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (24, 24, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM"):
        whole = encode(image, kind, **({"exif": exif} if kind in ("PNG", "JPEG", "WEBP", "TIFF") else {}))
        for _ in range(60):
            data = bytearray(whole[: rng.integers(1, len(whole) + 1)])
            for place in rng.integers(0, len(data), 4):
                data[place] = rng.integers(256)
            with contextlib.suppress(ImageError):
                assert read_rgb(bytes(data)).mode == "RGB"


@pytest.mark.parametrize(
    ("pixels", "colour"),
    [
        (np.array([[[9, 8, 7], [200, 0, 0]]], np.uint8), (9, 8, 7)),
        (np.array([[9, 200]], np.uint8), 9),
        (np.array([[40000, 51200]], np.uint16), 40000),
    ],
)
def test_the_colour_that_a_png_declares_transparent_is_white(pixels, colour):
    raw = io.BytesIO()
    Image.fromarray(pixels).save(raw, "png", transparency=colour)
    shown = np.asarray(read_rgb(raw.getvalue()))
    assert shown[0, 0].tolist() == [255, 255, 255]
    assert shown[0, 1, 0] == 200
