import io
import itertools
import json
import random
import tarfile

import numpy as np
import pytest
from PIL import Image

from lam_jax.scenes import compose, make_emoji
from lam_jax.scenes.compose import BACKGROUNDS, Placed, Scene, concepts, draw_scene, encode_png, render


def scenes(count):
    return [draw_scene(random.Random(f"test/{i}")) for i in range(count)]


def test_equal_generators_give_equal_bytes_and_others_do_not():
    first, again, other = (encode_png(draw_scene(random.Random(seed))) for seed in ("a", "a", "b"))
    assert first == again != other


def test_png_holds_exactly_the_rendered_pixels():
    scene = scenes(1)[0]
    picture = np.asarray(Image.open(io.BytesIO(encode_png(scene))))
    assert picture.shape == (84, 112, 3)
    np.testing.assert_array_equal(picture, render(scene))


def test_rendering_leaves_the_cached_background_alone():
    one, two = scenes(2)
    before = render(one)
    render(two)
    np.testing.assert_array_equal(render(one), before)


def test_objects_stand_left_to_right_inside_the_picture_and_apart():
    for scene in scenes(400):
        edges = [(o.x - o.size // 2, o.x - o.size // 2 + o.size) for o in scene.objects]
        assert all(left >= 0 and right <= compose.WIDTH for left, right in edges)
        assert all(o.y - o.size // 2 >= 0 and o.y - o.size // 2 + o.size <= compose.HEIGHT for o in scene.objects)
        assert all(after[0] - before[1] >= -2 for before, after in itertools.pairwise(edges))
        assert scene.uniform or len(set(scene.names)) == len(scene.objects)


def test_draws_vary_in_number_place_size_and_side():
    drawn = scenes(600)
    assert {len(scene.objects) for scene in drawn} == {1, 2, 3}
    assert {scene.background for scene in drawn} == set(BACKGROUNDS)
    assert {o.size for scene in drawn for o in scene.objects} == set(range(26, 39))
    assert {o.name for scene in drawn for o in scene.objects} == {concept.name for concept in concepts()}
    assert 0.1 < np.mean([scene.uniform for scene in drawn]) < 0.25
    assert max(len(draw_scene(random.Random(i), most=2).objects) for i in range(100)) == 2


def test_every_concept_can_be_seen_on_every_background():
    for name in BACKGROUNDS:
        empty = render(Scene((), name, (0, 0, 0))).astype(int)
        for concept in concepts():
            shown = render(Scene((Placed(concept, 56, 42, 32, False),), name, (0, 0, 0))).astype(int)
            window = np.abs(shown - empty)[26:58, 40:72].max(-1)
            changed = window > 40
            assert changed.mean() > 0.08, f"{concept.name} in {name}"


def test_flip_mirrors_the_sprite():
    concept = next(concept for concept in concepts() if concept.name == "key")
    plain, flipped = (
        render(Scene((Placed(concept, 56, 42, 32, flip),), "beach", (0, 0, 0)))[26:58, 40:72] for flip in (False, True)
    )
    np.testing.assert_array_equal(plain[:, ::-1], flipped)
    assert (plain != flipped).any()


def test_vendored_concepts_are_those_of_the_script():
    vendored = json.loads((compose.ASSETS / "concepts.json").read_text())
    assert vendored == make_emoji.concepts()
    assert len(vendored) == len({row["name"] for row in vendored}) == 112
    assert 8 <= len({row["category"] for row in vendored}) <= 10
    assert "Apache License" in (compose.ASSETS / "LICENSE").read_text()
    assert "Noto Emoji" in (compose.ASSETS / "NOTICE").read_text()


def test_script_builds_sheet_and_table_from_a_package(tmp_path):
    rows = make_emoji.concepts()
    package = tmp_path / "package.tgz"
    with tarfile.open(package, "w:gz") as archive:

        def add(name, data):
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))

        table = [{"short_name": row["emoji"], "image": f"{i}.png"} for i, row in enumerate(rows)]
        add("emoji.json", json.dumps(table).encode())
        for i in range(len(rows)):
            buffer = io.BytesIO()
            Image.new("RGBA", (64, 64), (i, 2 * i, 255 - i, 255)).save(buffer, "PNG")
            add(f"img/google/64/{i}.png", buffer.getvalue())
    make_emoji.make(package, tmp_path / "out")
    sheet = np.asarray(Image.open(tmp_path / "out" / "sprites.png"))
    assert sheet.shape == (7 * 32, 16 * 32, 4)
    assert sheet[32 + 16, 32 + 16].tolist() == [17, 34, 238, 255]
    assert json.loads((tmp_path / "out" / "concepts.json").read_text()) == rows


def test_script_names_a_missing_picture(tmp_path):
    package = tmp_path / "package.tgz"
    with tarfile.open(package, "w:gz") as archive:
        member = tarfile.TarInfo("package/emoji.json")
        member.size = 2
        archive.addfile(member, io.BytesIO(b"[]"))
    with pytest.raises(KeyError, match="cat2"):
        make_emoji.make(package, tmp_path)
