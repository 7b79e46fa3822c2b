"""What results.json says of where numbers were made, and the pictures that lie beside it."""

import io
import subprocess

import pytest
from PIL import Image

from lam_jax.pipeline.results import as_png, environment_of, source_commit
from lam_jax.runs.run import PhaseResult


def repository(folder, *tracked):
    """A repository with one commit of some files, and the commit."""
    author = ("-c", "user.name=a", "-c", "user.email=a@b")
    folder.mkdir(exist_ok=True)
    for arguments in (("init", "-q"), ("add", "--", *tracked), (*author, "commit", "-q", "--allow-empty", "-m", "x")):
        subprocess.run(["git", "-C", str(folder), *arguments], check=True)
    found = subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    return found.stdout.strip()


def package(folder):
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    return folder


def test_a_checkout_has_its_commit(tmp_path):
    own = package(tmp_path / "checkout" / "lam_jax")
    commit = repository(tmp_path / "checkout", "lam_jax/__init__.py")
    assert commit.startswith(source_commit(own))
    assert len(source_commit(own)) >= 7


def test_the_commit_of_a_repository_around_an_installed_package_is_not_ours(tmp_path):
    untracked = package(tmp_path / "work" / "lam_jax")
    repository(tmp_path / "work")
    assert source_commit(untracked) is None
    inside = package(tmp_path / "thesis" / "third_party" / "lam_jax")
    repository(tmp_path / "thesis", "third_party/lam_jax/__init__.py")
    assert source_commit(inside) is None


def test_without_a_repository_there_is_no_commit(tmp_path, monkeypatch):
    own = package(tmp_path / "lam_jax")
    assert source_commit(own) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert source_commit(own) is None, "without git neither"


def test_the_environment_is_that_of_the_phases_and_names_each_that_took_part():
    def phase(**environment):
        return PhaseResult(None, {}, 1.0, 0.0, False, None, environment)

    first, second = phase(jax="0.10", device="cpu", cpu_count=2), phase(jax="0.10", device="TPU v5e", cpu_count=112)
    assert environment_of([first, first]) == {"jax": "0.10", "device": "cpu", "cpu_count": 2}
    assert environment_of([first, second, first, phase()]) == {
        "jax": "0.10",
        "device": "cpu, then TPU v5e",
        "cpu_count": "2, then 112",
    }


@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "RGB"), ("WEBP", "RGB"), ("PNG", "RGBA"), ("GIF", "P")])
def test_pictures_of_any_kind_are_shown_as_small_png(kind, mode):
    buffer = io.BytesIO()
    Image.new("RGB", (1000, 500), (200, 60, 50)).convert(mode).save(buffer, kind)
    with Image.open(io.BytesIO(as_png(buffer.getvalue()))) as shown:
        assert (shown.format, shown.size) == ("PNG", (640, 320))
        assert sum(abs(a - b) for a, b in zip(shown.convert("RGB").getpixel((5, 5)), (200, 60, 50))) < 40


def test_a_small_png_is_kept_and_a_photograph_is_turned_upright():
    small, photograph = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (64, 32)).save(small, "PNG")
    assert as_png(small.getvalue()) == small.getvalue()
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by 90 degrees
    Image.new("RGB", (64, 32)).save(photograph, "JPEG", exif=turned)
    with Image.open(io.BytesIO(as_png(photograph.getvalue()))) as shown:
        assert shown.size == (32, 64)
