"""Image settings wherever a version of transformers kept them, against transformers' own processor."""

import json

import numpy as np
import pytest
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from lam_jax.agents.export import preprocessor_config
from lam_jax.models.processor import ImageError, ImageSettings, image_tokens, process_image, read_image_settings

MOST, LEAST = 484 * 28 * 28, 4 * 28 * 28
PUBLISHED = {  # preprocessor_config.json of Qwen/Qwen2.5-VL-3B-Instruct
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2_5_VLProcessor",
}


def write(folder, values, name="preprocessor_config.json"):
    (folder / name).write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize(
    "values",
    [
        {"max_pixels": MOST, "min_pixels": LEAST},
        {"size": {"max_pixels": MOST, "min_pixels": LEAST}},
        {"size": {"longest_edge": MOST, "shortest_edge": LEAST}},
        {"size": {"longest_edge": MOST, "shortest_edge": LEAST}, "max_pixels": MOST, "min_pixels": LEAST},
        {"size": {"max_pixels": MOST, "min_pixels": LEAST}, "max_pixels": None, "min_pixels": None},
        {"size": {"longest_edge": MOST, "shortest_edge": LEAST, "height": None}},
        {"size": {"max_pixels": MOST, "longest_edge": MOST, "min_pixels": LEAST}},
        {"size": None, "max_pixels": float(MOST), "min_pixels": LEAST},
    ],
)
def test_limits_in_every_place_give_the_tokens_of_transformers_processor(tmp_path, values):
    pixels = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), np.uint8)
    reference = Qwen2VLImageProcessorPil(max_pixels=MOST, min_pixels=LEAST)(
        images=[Image.fromarray(pixels)], return_tensors="np"
    )
    settings = read_image_settings(write(tmp_path, values))
    patches, grid = process_image(pixels, settings)
    assert image_tokens(grid) == 484
    np.testing.assert_array_equal([grid], reference["image_grid_thw"])
    np.testing.assert_array_equal(patches, reference["pixel_values"])


def test_the_published_file_and_one_limit_alone(tmp_path):
    assert read_image_settings(write(tmp_path, PUBLISHED)) == ImageSettings(min_pixels=3136, max_pixels=12845056)
    assert read_image_settings(write(tmp_path, {"size": {"max_pixels": 784 * 9}})).max_pixels == 784 * 9
    assert read_image_settings(write(tmp_path, {"min_pixels": 784 * 9})) == ImageSettings(min_pixels=784 * 9)


@pytest.mark.parametrize("under", ["longest_edge", "max_pixels"])
def test_of_two_limits_that_differ_the_one_beside_counts_as_in_transformers(tmp_path, caplog, under):
    size = {"longest_edge": 784 * 100, "shortest_edge": LEAST}
    theirs = Qwen2VLImageProcessorPil(max_pixels=MOST, size=dict(size))
    settings = read_image_settings(write(tmp_path, {"max_pixels": MOST, "size": {under: 784 * 100}}))
    assert settings.max_pixels == theirs.size["longest_edge"] == MOST
    assert f"max_pixels is {MOST}, but size.{under} is {784 * 100}" in caplog.text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": {"height": 448, "width": 448}}, r"\['height', 'width'\] under size, expected some of"),
        ({"size": {"longest_pixels": 5}}, "longest_pixels"),
        ({"size": 448}, "found size 448, expected an object"),
        ({"size": {"max_pixels": MOST, "longest_edge": 784 * 9}}, "size says both longest_edge 7056 and max_pixels"),
        ({"max_pixels": "784"}, "found max_pixels '784', expected a positive whole number"),
        ({"max_pixels": True}, "max_pixels True"),
        ({"min_pixels": 0}, "min_pixels 0"),
        ({"size": {"max_pixels": 784.5}}, "max_pixels 784.5"),
        ({"max_pixels": 10}, "at least min_pixels"),
        ({"do_normalize": False}, "do_normalize False, expected True"),
        ({"do_rescale": False}, "do_rescale"),
        ({"do_center_crop": True}, "do_center_crop True"),
        ({"rescale_factor": 1.0}, "rescale_factor 1.0, expected 1/255"),
        ({"resample": 2}, "resample 2"),
        ({"image_processor_type": "CLIPImageProcessor"}, "CLIPImageProcessor.*expected Qwen2VLImageProcessor"),
        ({"image_mean": [0.5, 0.5]}, "expected 3 values"),
        ({"image_mean": "0.5"}, "could not convert"),
        ({"max_pixel": MOST}, r"\['max_pixel'\], which are not read; expected sizes under .*'max_pixels'"),
        ({"max_image_pixels": MOST}, "max_image_pixels"),
        ({"longest_edge": MOST}, r"\['longest_edge'\], which are not read"),
        ({"spatial_merge_size": 4}, "spatial_merge_size"),
        ({"size_divisor": 32, "our_lab": 1}, r"\['size_divisor'\]"),
        ({"max_pixels": float("inf")}, "max_pixels inf"),
        ({"image_processor": {"max_pixel": 5}}, r"\['max_pixel'\], which are not read"),
        ([], "found list, expected an object"),
    ],
)
def test_what_is_not_done_here_is_refused_by_name(tmp_path, values, message):
    with pytest.raises(ImageError, match=rf"preprocessor_config\.json: not the settings.*{message}"):
        read_image_settings(write(tmp_path, values))


def test_one_number_for_all_channels_is_that_of_each(tmp_path):
    found = read_image_settings(write(tmp_path, {"image_mean": 0.5, "image_std": 0.25}))
    assert (found.mean, found.std) == ((0.5,) * 3, (0.25,) * 3)


def test_transformers_5_keeps_them_in_the_processors_file(tmp_path):
    own = {**PUBLISHED, "size": {"longest_edge": MOST, "shortest_edge": LEAST}}
    nested = {name: value for name, value in own.items() if name not in ("min_pixels", "max_pixels")}
    processor = {"processor_class": "Qwen2_5_VLProcessor", "image_processor": nested, "video_processor": {"fps": 2}}
    expected = ImageSettings(min_pixels=LEAST, max_pixels=MOST)
    assert read_image_settings(write(tmp_path, processor, "processor_config.json")) == expected
    write(tmp_path, {"max_pixels": 784 * 9})  # the nested ones count, as in transformers
    assert read_image_settings(tmp_path) == expected
    write(tmp_path, {"processor_class": "Qwen2_5_VLProcessor"}, "processor_config.json")  # early ones hold none
    assert read_image_settings(tmp_path).max_pixels == 784 * 9


def test_the_newer_form_in_the_older_file_is_read_and_keys_that_say_nothing_are_passed_over(tmp_path):
    nested = {"image_processor": {"size": {"max_pixels": 784 * 9}}, "processor_class": "Qwen2_5_VLProcessor"}
    assert read_image_settings(write(tmp_path, nested)).max_pixels == 784 * 9
    silent = {
        "crop_size": {"height": 224, "width": 224},
        "do_center_crop": False,
        "pad_size": None,
        "size_divisor": None,
    }
    assert read_image_settings(write(tmp_path, PUBLISHED | silent)) == ImageSettings(max_pixels=12845056)


def test_transformers_reads_what_it_saves_itself_as_we_do(tmp_path):
    Qwen2VLImageProcessorPil(max_pixels=MOST, min_pixels=LEAST).save_pretrained(tmp_path)
    assert read_image_settings(tmp_path) == ImageSettings(min_pixels=LEAST, max_pixels=MOST)


def test_no_file_is_said_with_both_names(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"neither preprocessor_config\.json nor a processor_config\.json"):
        read_image_settings(tmp_path)


def test_exported_settings_are_read_back_and_keep_foreign_keys(tmp_path):
    image = ImageSettings(min_pixels=LEAST, max_pixels=MOST)
    base = {**PUBLISHED, "size": {"max_pixels": 7, "min_pixels": 3}, "our_lab": [1]}
    written = preprocessor_config(image, base, "Qwen3VLProcessor")
    assert written["our_lab"] == [1]
    assert read_image_settings(write(tmp_path, written)) == image
    theirs = Qwen2VLImageProcessorPil.from_pretrained(tmp_path)
    assert dict(theirs.size)["longest_edge"] == MOST
