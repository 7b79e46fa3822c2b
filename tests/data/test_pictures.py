"""A row's picture: what is read, and that nothing outside of its folders is."""

import base64
import io
import os

import pytest
from PIL import Image

from lam_jax.data.pictures import resolve_image
from lam_jax.data.schemas import DataError, Where

WHERE = Where("rows.json", 3)


def encoded(kind, size=(24, 24)):
    out = io.BytesIO()
    Image.new("RGB", size, "red").save(out, kind)
    return out.getvalue()


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "data"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "a b.png").write_bytes(encoded("PNG"))
    (root / "empty.png").write_bytes(b"")
    (tmp_path / "secret.png").write_bytes(encoded("PNG"))
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "inside.png").symlink_to(root / "sub" / "a b.png")
    (tmp_path / "away").mkdir()
    (tmp_path / "away" / "c.png").write_bytes(encoded("PNG"))
    (root / "away").symlink_to(tmp_path / "away")
    os.mkfifo(root / "pipe.png")
    return root


def resolve(value, root, **options):
    return resolve_image(value, root, WHERE, "images[0]", **options)


@pytest.mark.parametrize("value", ["sub/a b.png", "./sub/../sub/a b.png", "inside.png", "sub//a b.png"])
def test_paths_inside_the_root_are_read(root, value):
    assert resolve(value, root) == root / value
    assert resolve({"path": value, "bytes": None}, root) == root / value


def test_absolute_paths_and_file_addresses_inside_the_root_are_read(root):
    path = root / "sub" / "a b.png"
    for value in (str(path), path.as_uri(), path, f"file://localhost{path.as_posix().replace(' ', '%20')}"):
        assert resolve(value, root) == path


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("urlsafe", [False, True])
def test_base64_and_data_addresses_are_read(root, kind, urlsafe):
    content = encoded(kind)
    text = base64.b64encode(content).decode()
    for value in (
        content,
        {"bytes": content, "path": "gone.png"},
        {"bytes": text, "path": None},
        base64.urlsafe_b64encode(content).decode() if urlsafe else text,
        text.rstrip("="),
        "\n".join(text[i : i + 76] for i in range(0, len(text), 76)),
        f"data:image/{kind.lower()};base64,{text}",
        f"DATA:image/x;charset=utf-8;base64,{text.replace('=', '%3D')}",
    ):
        found = resolve(value, root)
        assert (found if isinstance(found, bytes) else None) == content


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("../secret.png", r"the path '../secret.png', which leads to .*secret\.png; expected a file inside"),
        ("sub/../../secret.png", "which leads to"),
        ("away/../secret.png", "which leads to"),
        ("away/c.png", "which leads to"),
        ("link.png", "which leads to"),
        ("/etc/passwd", "which leads to /etc/passwd"),
        ("file:///etc/passwd", "which leads to /etc/passwd"),
        ("file:%2Fetc%2Fpasswd", "which leads to /etc/passwd"),
        ("file://server/a.png", "file:///folder/name"),
        ({"path": "../secret.png"}, "which leads to"),
        ("..", "which leads to"),
        ("sub/..", "no file"),
        ("sub", "no file"),
        ("", "found an empty text.*Drop the key"),
        (" ", "found an empty text"),
        (".", "no file"),
        ("pipe.png", "no file"),
        ("empty.png", "the empty file"),
        (b"", "0 bytes"),
        ("gone.png", r"no file .*gone\.png; expected an image file"),
        ("sub/a b.png/x.png", "no file"),
        ("a\0.png", r"no file .*a\\0\.png"),
        ("\ud800.png", r"no file .*\\ud800\.png"),
        ("x" * 32_000, r"no file .* \(File name too long\)"),
        ("http://host/a.png", "Pictures are not fetched while training"),
        ("HTTPS://host/a.png", "not fetched"),
        ("s3://bucket/a.png", "not fetched"),
        ("data:image/png;base64,%%%", "expected data:image/png;base64"),
        ("data:image/png;base64,", "0 bytes"),
        ("data:text/html;base64,AAAA", "a text/html"),
        ("data:", "no comma"),
        (base64.b64encode(encoded("PNG")).decode()[:-3] + "!" + "A" * 80, "no file"),
        (base64.b64encode(encoded("PNG")).decode()[:65], "does not decode"),
        (3, "found int 3; expected an image path"),
        (None, "found NoneType None; expected an image path"),
        ([], "found list"),
        ({}, "an empty object"),
        ({"bytes": None, "path": None}, "keys \\['bytes', 'path'\\]"),
        ({"url": "a.png"}, "keys \\['url'\\]"),
    ],
)
def test_other_values_name_row_and_key(root, value, message):
    with pytest.raises(DataError, match=message) as error:
        resolve(value, root)
    assert str(error.value).startswith("rows.json, row 3, key 'images[0]': found ")
    assert len(str(error.value)) < 1000


def test_further_folders_are_asked_for(root, tmp_path):
    away = tmp_path / "away"
    assert resolve("away/c.png", root, folders=[away]) == root / "away" / "c.png"
    assert resolve(str(away / "c.png"), root, folders=[away]) == away / "c.png"
    with pytest.raises(DataError, match=r"a file inside .*data or .*away"):
        resolve("../secret.png", root, folders=[away])
    assert resolve("sub/a b.png", tmp_path / "data") == root / "sub" / "a b.png"
    assert resolve(str(tmp_path / "secret.png"), tmp_path) == tmp_path / "secret.png"


def test_a_folder_whose_name_begins_alike_is_another(tmp_path):
    for name in ("data", "data2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(b"x")
    with pytest.raises(DataError, match="which leads to"):
        resolve("../data2/a.png", tmp_path / "data")
    (tmp_path / "root").symlink_to(tmp_path / "data")
    assert resolve("a.png", tmp_path / "root") == tmp_path / "root" / "a.png"


def test_the_current_folder_is_the_root_where_none_is_given(root, monkeypatch, tmp_path):
    monkeypatch.chdir(root)
    assert resolve("sub/a b.png", None).is_file()
    monkeypatch.chdir(tmp_path / "away")
    with pytest.raises(DataError, match="which leads to"):
        resolve("../data/sub/a b.png", None)
