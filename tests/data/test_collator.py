import numpy as np
import pytest

from lam_jax.data.collator import Collator, CollatorConfig, Cuts
from lam_jax.data.schemas import DataError, Example
from lam_jax.models.positions import image_layout, mrope_positions
from lam_jax.models.processor import ImageSettings, process_image

SMALL = ImageSettings(size=(56, 56))  # 4 x 4 patches, 4 tokens
PAD, END, VISION_START, VISION_END, IMAGE = 0, 2, 3, 4, 5


def example(question="How many?", answer="Two cats.", images=(), system=None):
    head = [{"role": "system", "content": system}] if system else []
    chat = [*head, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return Example("row", tuple(chat), tuple(images))


def train(encoder, *lengths, **options):
    return Collator(encoder, CollatorConfig(lengths, image=SMALL, **options))


def prompts(encoder, *lengths, **options):
    return train(encoder, *lengths, kind="prompt", padding="left", **options)


def test_right_padding_masks_and_one_dimensional_positions(encoder):
    rows = [example(), example("What is in the picture?", "A red apple and two cats.")]
    batch = train(encoder, 64, 128)(rows).batch
    assert batch.tokens.shape == (2, 64)
    assert batch.images is None
    assert not batch.has_image.any()
    for index, row in enumerate(rows):
        encoded = encoder.encode(row.messages)
        n = len(encoded)
        assert batch.tokens[index].tolist() == [*encoded.tokens, *[PAD] * (64 - n)]
        assert batch.mask[index].tolist() == [True] * n + [False] * (64 - n)
        assert batch.valid[index].tolist() == [True] * n + [False] * (64 - n)
        assert batch.response[index].tolist() == [*encoded.response, *[False] * (64 - n)]
        for stream in batch.positions[index]:
            assert stream.tolist() == [*range(n), *[1] * (64 - n)]


def test_left_padding_shifts_the_row_and_keeps_its_positions(encoder, make_png):
    row = example(images=[make_png()])
    right, left = (train(encoder, 96, padding=side)([row]).batch for side in ("right", "left"))
    n = int(right.mask.sum())
    for name in ("tokens", "mask", "valid", "response"):
        assert getattr(left, name)[0, -n:].tolist() == getattr(right, name)[0, :n].tolist()
    assert left.positions[0, :, -n:].tolist() == right.positions[0, :, :n].tolist()
    assert not left.mask[0, :-n].any()
    assert (left.tokens[0, :-n] == PAD).all()
    assert (left.positions[0, :, :-n] == 1).all()


def test_positions_of_an_image_row_by_hand(encoder, make_png):
    batch = train(encoder, 64)([example("a", images=[make_png()])]).batch
    start = batch.tokens[0].tolist().index(IMAGE)
    t, h, w = batch.positions[0, :, : start + 8]
    before = list(range(start))
    assert t.tolist() == [*before, *[start] * 4, *range(start + 2, start + 6)]
    assert h.tolist() == [*before, start, start, start + 1, start + 1, *range(start + 2, start + 6)]
    assert w.tolist() == [*before, start, start + 1, start, start + 1, *range(start + 2, start + 6)]


def test_positions_of_a_picture_in_the_second_user_turn_by_hand(encoder, make_png):
    """As transformers' get_rope_index: text counts up, the picture shares t, text goes on after the largest."""
    chat = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "Two cats?"},
        {"role": "assistant", "content": "c"},
    ]
    row = Example("row", tuple(chat), (make_png(),), places=((2, 4),))
    batch = train(encoder, 96)([row]).batch
    tokens = batch.tokens[0].tolist()
    start = tokens.index(IMAGE)
    before = encoder.encode(chat[:2]).tokens.tolist()
    assert tokens[: len(before)] == before
    assert len(before) < start
    assert tokens[start : start + 5] == [IMAGE] * 4 + [VISION_END]
    count = list(range(start))
    t, h, w = batch.positions[0, :, : start + 6]
    assert t.tolist() == [*count, *[start] * 4, start + 2, start + 3]
    assert h.tolist() == [*count, start, start, start + 1, start + 1, start + 2, start + 3]
    assert w.tolist() == [*count, start, start + 1, start, start + 1, start + 2, start + 3]
    text = encoder.tokenizer.decode([token for token in tokens if token not in (PAD, IMAGE)])
    assert "user\nTwo <|vision_start|><|vision_end|>cats?" in text
    cut = prompts(encoder, 20)([row]).batch
    kept = cut.tokens[0].tolist()
    at = kept.index(VISION_START)
    assert kept[at : at + 6] == [VISION_START, *[IMAGE] * 4, VISION_END]
    after = encoder.tokenizer.decode(kept[at + 6 :])
    assert after
    assert "cats?<|im_end|>\n<|im_start|>assistant\n".endswith(after)


def test_several_images_are_laid_out_one_after_the_other(encoder, qwen_config, make_png):
    pictures = [make_png(seed=1), make_png(seed=2)]
    rows = [example(images=pictures), example(images=pictures[1:]), example()]
    batch = train(encoder, 96, max_images=2)(rows).batch
    assert batch.has_image.tolist() == [True, True, False]
    assert [(batch.tokens[i] == IMAGE).sum() for i in range(3)] == [8, 4, 0]
    assert batch.images.patches.shape == (3, 32, 1176)
    assert batch.images.window_slots.shape == (3, 2, 16)
    first, second = (process_image(picture, SMALL)[0] for picture in pictures)
    np.testing.assert_array_equal(batch.images.patches[0], np.concatenate([first, second]))
    np.testing.assert_array_equal(batch.images.patches[1, :16], second)
    assert not batch.images.patches[1, 16:].any()
    assert not batch.images.patches[2].any()
    assert batch.images.image_id[0].tolist() == [0] * 16 + [1] * 16
    assert (batch.images.image_id[2] == -1).all()
    assert (batch.images.window_slots[1, 1] == -1).all()
    grids = [[(1, 4, 4)] * 2, [(1, 4, 4)], []]
    layout = image_layout(grids, qwen_config.vision, 32, 2)
    np.testing.assert_array_equal(batch.images.patch_hw, layout["patch_hw"])
    np.testing.assert_array_equal(batch.positions, mrope_positions(batch.tokens, batch.mask, grids, qwen_config))


def test_smallest_bucket_that_fits(encoder):
    collate = train(encoder, 8, 40, 200)
    assert collate([example("a", "b")]).batch.tokens.shape == (1, 40)
    assert collate([example("a", "b"), example("a " * 60, "b")]).batch.tokens.shape == (2, 200)


def test_training_rows_are_cut_on_the_right_and_counted(encoder):
    rows = [example("a", "cats " * 40), example("a", "b")]
    whole = encoder.encode(rows[0].messages)
    out = train(encoder, 40)(rows)
    assert out.batch.tokens[0].tolist() == whole.tokens[:40].tolist()
    assert out.batch.response[0].tolist() == whole.response[:40].tolist()
    assert out.cuts == Cuts(rows=1, tokens=len(whole) - 40)


def test_official_prompts_are_cut_on_the_left_with_all_vision_tokens_kept(encoder, make_png):
    row = example("x " * 40 + "cats?", images=[make_png()], system="You are a helpful assistant.")
    whole = encoder.encode(row.prompt, [4], generation_prompt=True)
    out = prompts(encoder, 30, keep_header=False)([row])
    vision = [VISION_START, *[IMAGE] * 4, VISION_END]
    assert out.batch.tokens[0].tolist() == vision + whole.tokens[-24:].tolist()
    assert out.batch.valid[0].tolist() == [False] * 6 + [True] * 24
    assert out.cuts == Cuts(1, len(whole) - 30)
    # The picture now starts the row: its tokens sit at 1 + (0|1, 0|1), the text goes on after the largest.
    assert out.batch.positions[0, :, :8].tolist() == [
        [0, 1, 1, 1, 1, 3, 4, 5],
        [0, 1, 1, 2, 2, 3, 4, 5],
        [0, 1, 2, 1, 2, 3, 4, 5],
    ]


def test_prompts_end_in_the_header_and_hold_no_answer(encoder, tokenizer):
    batch = prompts(encoder, 64)([example(answer="SECRET")]).batch
    text = tokenizer.decode(batch.tokens[0])
    assert text.endswith("<|im_start|>assistant\n")
    assert "SECRET" not in text
    assert not batch.response.any()
    assert batch.mask[0, -1]
    assert not batch.mask[0, 0]


def test_fill_rows_are_padding_throughout(encoder, make_png):
    out = prompts(encoder, 64)([example(images=[make_png()])], rows=3)
    assert len(out.examples) == 1
    assert out.batch.tokens.shape == (3, 64)
    assert not out.batch.mask[1:].any()
    assert not out.batch.valid[1:].any()
    assert (out.batch.tokens[1:] == PAD).all()
    assert out.batch.has_image.tolist() == [True, False, False]
    assert (out.batch.images.image_id[1:] == -1).all()
    with pytest.raises(ValueError, match="found 2 examples"):
        prompts(encoder, 64)([example()] * 2, rows=1)


def test_rows_that_cannot_fit_are_named(encoder, make_png):
    picture = make_png()
    with pytest.raises(DataError, match="6 vision tokens that do not end within 8"):
        train(encoder, 8)([example(images=[picture])])
    with pytest.raises(DataError, match="fewer than the prompt's 6 tokens"):
        prompts(encoder, 6)([example(images=[picture])])
    with pytest.raises(DataError, match="found 2 images of 32 patches; expected at most 1 images of 16 patches"):
        train(encoder, 64)([example(images=[picture] * 2)])


def test_bad_pictures_name_the_row(encoder, tmp_path):
    with pytest.raises(DataError, match="No such file"):
        train(encoder, 64)([example(images=[tmp_path / "gone.png"])])
    with pytest.raises(ValueError, match=r"example: found 4 bytes"):
        train(encoder, 64)([example(images=[b"junk"])])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lengths": ()}, "lengths"),
        ({"lengths": (64, 32)}, "increasing"),
        ({"kind": "rl"}, "'train' or 'prompt'"),
        ({"kind": "prompt"}, "'left'"),
        ({"padding": "top"}, "padding"),
        ({"image": ImageSettings()}, "patches and windows"),
        ({"max_images": 0}, "max_images"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        CollatorConfig(**{"lengths": (64,), "image": SMALL, **options})
