import dataclasses
import io

import numpy as np
import pytest
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from lam_jax.models.families import PRESETS, image_settings
from lam_jax.models.processor import ImageError, ImageSettings, image_tokens, process_image, read_image_settings


def random_pixels(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("height", "width", "limits"),
    [
        (84, 112, (3136, 1003520)),  # already whole merge groups
        (33, 90, (3136, 1003520)),
        (1, 1, (3136, 1003520)),
        (10, 1500, (3136, 1003520)),  # long, but under the aspect limit
        (300, 217, (3136, 20000)),  # scaled down
        (20, 24, (50000, 100000)),  # scaled up
    ],
)
def test_equals_the_transformers_processor_bit_for_bit(height, width, limits):
    pixels = random_pixels(height, width)
    reference = Qwen2VLImageProcessorPil(min_pixels=limits[0], max_pixels=limits[1])(
        images=[Image.fromarray(pixels)], return_tensors="np"
    )

    settings = ImageSettings(min_pixels=limits[0], max_pixels=limits[1])
    patches, grid = process_image(pixels, settings)

    assert patches.dtype == np.float32
    np.testing.assert_array_equal(patches, reference["pixel_values"])
    np.testing.assert_array_equal([grid], reference["image_grid_thw"])
    assert grid == settings.grid(height, width)


def test_other_patch_and_merge_sizes_equal_the_transformers_processor():
    pixels = random_pixels(60, 100)
    options = {
        "patch_size": 8,
        "merge_size": 3,
        "temporal_patch_size": 1,
        "image_mean": [0.5] * 3,
        "image_std": [0.2] * 3,
    }
    reference = Qwen2VLImageProcessorPil(**options)(images=[Image.fromarray(pixels)], return_tensors="np")

    settings = ImageSettings(patch_size=8, merge_size=3, temporal_patch_size=1, mean=(0.5,) * 3, std=(0.2,) * 3)
    patches, grid = process_image(pixels, settings)

    np.testing.assert_array_equal(patches, reference["pixel_values"])
    assert image_tokens(grid, settings.merge_size) * 9 == len(patches)


@pytest.mark.parametrize(("height", "width"), [(100, 64), (500, 333), (32, 1200), (1100, 90)])
def test_qwen3_settings_equal_the_transformers_processor(height, width):
    """As its published preprocessor_config.json has them, with less room so that the upper limit is met too."""
    size = {"shortest_edge": 65536, "longest_edge": 200_000}
    options = {"patch_size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": size}
    pixels = random_pixels(height, width)
    reference = Qwen2VLImageProcessorPil(**options)(images=[Image.fromarray(pixels)], return_tensors="np")
    settings = dataclasses.replace(image_settings(PRESETS["qwen3_vl_2b"]), max_pixels=200_000)
    patches, grid = process_image(pixels, settings)
    np.testing.assert_array_equal(patches, reference["pixel_values"])
    np.testing.assert_array_equal([grid], reference["image_grid_thw"])
    assert settings.factor == 32


def test_a_fixed_size_stretches_every_image():
    settings = ImageSettings(size=(280, 420))
    pixels = random_pixels(100, 64)
    patches, grid = process_image(pixels, settings)

    assert grid == (1, 20, 30)
    stretched = np.asarray(Image.fromarray(pixels).resize((420, 280), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(patches, process_image(stretched, settings)[0])
    assert image_tokens(grid) == 150


def test_patches_of_a_merge_group_are_contiguous_and_frames_repeat():
    pixels = np.zeros((56, 84, 3), np.uint8)
    pixels[14:28, 42:56, 1] = 255  # second patch row, fourth patch column
    patches, grid = process_image(pixels, ImageSettings())

    assert grid == (1, 4, 6)
    lit = patches.reshape(24, 3, 2, 196)[:, 1].max(axis=-1) > 0
    # Group (0, 1) holds patches 4-7 in the order (0,2), (0,3), (1,2), (1,3): the lit one is the last.
    np.testing.assert_array_equal(np.argwhere(lit), [[7, 0], [7, 1]])


def rgb_of(image: bytes | Image.Image, height: int, width: int) -> np.ndarray:
    """The pixels that the patches of a one-group-high image stand for, [height, width, 3]."""
    settings = ImageSettings(min_pixels=1, mean=(0.0,) * 3, std=(1.0,) * 3)
    patches, (_, rows, columns) = process_image(image, settings)
    assert (rows * 14, columns * 14) == (height, width)
    cut = patches.reshape(rows // 2, columns // 2, 2, 2, 3, 2, 14, 14)[:, :, :, :, :, 0]
    return np.rint(cut.transpose(0, 2, 5, 1, 3, 6, 4).reshape(height, width, 3) * 255).astype(int)


def test_cmyk_and_palette_images_become_rgb():
    cmyk = Image.new("CMYK", (28, 28), (0, 255, 255, 0))
    np.testing.assert_allclose(rgb_of(encode(cmyk, "JPEG"), 28, 28)[0, 0], [255, 0, 0], atol=4)
    palette = Image.new("P", (28, 28), 1)
    palette.putpalette([9, 9, 9, 10, 200, 30])
    np.testing.assert_array_equal(rgb_of(encode(palette), 28, 28)[5, 5], [10, 200, 30])
    transparent = encode(palette, transparency=1)
    np.testing.assert_array_equal(rgb_of(transparent, 28, 28)[5, 5], [255, 255, 255])


def test_transparency_is_shown_on_white():
    image = Image.new("RGBA", (28, 28), (200, 0, 0, 255))
    image.putpixel((0, 0), (1, 2, 3, 0))
    pixels = rgb_of(encode(image), 28, 28)
    np.testing.assert_array_equal(pixels[0, 0], [255, 255, 255])
    np.testing.assert_array_equal(pixels[1, 1], [200, 0, 0])


def test_sixteen_bit_grey_is_scaled_not_clipped():
    levels = np.full((28, 28), 0x8000, np.uint16)
    levels[0, 0] = 0x0200
    pixels = rgb_of(encode(Image.fromarray(levels)), 28, 28)
    np.testing.assert_array_equal(pixels[0, 0], [2, 2, 2])
    np.testing.assert_array_equal(pixels[1, 1], [128, 128, 128])


def test_camera_orientation_is_applied():
    image = Image.new("RGB", (56, 28))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    assert process_image(encode(image, "JPEG", exif=exif), ImageSettings(min_pixels=1))[1] == (1, 4, 2)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes"),
        (b"<html>404</html>", "begin with b'<html>40'"),
        (encode(Image.fromarray(random_pixels(64, 64)))[:-900], "cannot be decoded"),
        (encode(Image.fromarray(random_pixels(64, 64)), "JPEG")[:-900], "cannot be decoded"),
        (Image.new("RGB", (9000, 40)), "40x9000"),
        (Image.new("F", (28, 28)), "mode F"),
        (Image.fromarray(np.full((28, 28), 1 << 20, np.int32)), "1048576"),
        (np.zeros((28, 28, 4), np.uint8), r"\(28, 28, 4\)"),
        (np.zeros((28, 28, 3), np.float32), "float32"),
    ],
)
def test_refuses_with_the_source_and_what_was_found(data, message):
    with pytest.raises(ImageError, match=r"row 7 of train\.json: found .*" + message):
        process_image(data, ImageSettings(), source="row 7 of train.json")


def test_refuses_more_pixels_than_can_be_opened(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageError, match="scale the image down"):
        process_image(encode(Image.new("RGB", (40, 40))), ImageSettings())


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": (84, 100)},
        {"size": (0, 28)},
        {"max_pixels": 100},
        {"min_pixels": 50000, "max_pixels": 40000},
        {"patch_size": 0},
        {"mean": (0.5,)},
        {"std": (0.0, 1.0, 1.0)},
    ],
)
def test_settings_refuse_what_cannot_work(wrong):
    with pytest.raises(ValueError, match="expected"):
        ImageSettings(**wrong)


@pytest.mark.parametrize(
    "values", ['{"min_pixels": 4000, "max_pixels": 90000}', '{"size": {"shortest_edge": 4000, "longest_edge": 90000}}']
)
def test_reads_the_settings_of_a_hugging_face_folder(tmp_path, values):
    (tmp_path / "preprocessor_config.json").write_text(values)
    assert read_image_settings(tmp_path) == ImageSettings(min_pixels=4000, max_pixels=90000)
