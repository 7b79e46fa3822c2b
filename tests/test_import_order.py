"""The rules of the tree that a reader relies on: imports point one way, modules stay small.

The order of imports is the picture in docs/design.md: a fenced block with one name a line, `name/` a package, `name.py`
a module, and in brackets what is on its way out and need not exist.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "lam_jax"
DESIGN = ROOT / "docs" / "design.md"


def picture(text: str) -> dict[str, bool]:
    """The names of the picture in their order, and whether each has to exist."""
    section = re.search(r"^## 1\. Picture$(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    block = section and re.search(r"^```\n(.*?)^```$", section[1], re.MULTILINE | re.DOTALL)
    assert block, "docs/design.md: found no fenced block in the section '## 1. Picture'"
    found: dict[str, bool] = {}
    for line in block[1].splitlines():
        entry = re.match(r"(\()?(\w+(?:/|\.py))(?(1)\)) +\S", line)
        assert entry, f"docs/design.md, picture: {line!r} is not 'name/   what it holds' or 'name.py   what it holds'"
        assert entry[2] not in found, f"docs/design.md, picture: {entry[2]} stands there twice"
        found[entry[2]] = entry[1] is None
    return found


PICTURE = picture(DESIGN.read_text())
# A package may import itself and what stands before it.
ORDER = tuple(name.removesuffix("/").removesuffix(".py") for name in PICTURE)
# What nn may import besides the standard library; the numeric core stays free of the rest of the ecosystem.
NN_MAY_IMPORT = {"jax", "jaxtyping", "flax.struct", "numpy", "lam_jax.nn"}
# Who knows the built-in world; everybody else works for any data.
KNOWS_SCENES = ("scenes", "recipes/demo.py")


def modules(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def imports(source: str, package: str) -> Iterator[tuple[int, str]]:
    """Yield (line, absolute dotted name) of every import, those inside functions too.

    `from a import b` yields "a.b": whether b is a module or a name in a makes no difference to the rules here.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    yield from imports(path.read_text(), ".".join(path.relative_to(ROOT).parent.parts))


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def violations(source: str, package: str, own_layer: str) -> list[str]:
    """The imports of lam_jax packages that stand after `own_layer`, as "line: name"."""
    found = []
    for line, name in imports(source, package):
        parts = name.split(".")
        if parts[0] == "lam_jax" and len(parts) > 1 and parts[1] in ORDER:
            if ORDER.index(parts[1]) > ORDER.index(own_layer):
                found.append(f"{line}: {name}")
        elif parts[0] == "experiments":
            found.append(f"{line}: {name}")
    return found


def test_the_picture_is_the_tree():
    there = {f"{path.name}/" for path in PACKAGE.iterdir() if list(path.glob("*.py"))}
    there |= {path.name for path in PACKAGE.glob("*.py")} - {"__init__.py"}
    missing = sorted(there - set(PICTURE))
    assert not missing, f"{missing} of lam_jax have no place in the picture of docs/design.md: add a line to it"
    surplus = [name for name, needed in PICTURE.items() if needed and name not in there]
    assert not surplus, f"the picture in docs/design.md names {surplus}, which lam_jax does not have"


def test_the_picture_is_read_in_its_order():
    text = "## 1. Picture\n\n```\nerrors.py  errors\n(old/)     going\nnn/        layers\n```\n\n## 2. Other\n"
    assert list(picture(text).items()) == [("errors.py", True), ("old/", False), ("nn/", True)]
    with pytest.raises(AssertionError, match="twice"):
        picture(text.replace("old", "nn"))
    with pytest.raises(AssertionError, match="is not"):
        picture(text.replace("nn/  ", "nn   "))
    with pytest.raises(AssertionError, match="no fenced block"):
        picture(text.replace("```", ""))


def test_the_rule_sees_absolute_relative_and_late_imports():
    source = "from ..train import loop\nimport lam_jax.cli\ndef f():\n    from lam_jax import rl\nfrom . import rope\n"
    assert violations(source, "lam_jax.nn", "nn") == [
        "1: lam_jax.train.loop",
        "2: lam_jax.cli",
        "4: lam_jax.rl",
    ]


@pytest.mark.parametrize("path", modules(PACKAGE), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_up_the_list(path: Path):
    if path == PACKAGE / "__init__.py":
        assert not [name for _, name in imports_of(path) if name.startswith("lam_jax.")], "lam_jax imports no module"
        return
    assert layer(path) in ORDER, f"{layer(path)} has no place in the picture of docs/design.md"
    package = ".".join(path.relative_to(ROOT).parent.parts)
    assert violations(path.read_text(), package, layer(path)) == []


def test_nn_imports_only_jax():
    import sys

    for path in modules(PACKAGE / "nn"):
        for line, name in imports_of(path):
            standard = name.split(".")[0] in sys.stdlib_module_names
            allowed = any(name == prefix or name.startswith(prefix + ".") for prefix in NN_MAY_IMPORT)
            assert standard or allowed, f"{path.relative_to(ROOT)}:{line} imports {name}"


def test_only_the_demo_knows_the_built_in_world():
    for path in modules(PACKAGE):
        if not path.relative_to(PACKAGE).as_posix().startswith(KNOWS_SCENES):
            found = [f"{line}: {name}" for line, name in imports_of(path) if f"{name}.".startswith("lam_jax.scenes.")]
            assert not found, f"{path.relative_to(ROOT)} imports the built-in world: {found}"


def test_torch_is_never_imported():
    for path in modules(PACKAGE):
        for line, name in imports_of(path):
            assert name.split(".")[0] not in {"torch", "tensorflow"}, f"{path.relative_to(ROOT)}:{line} imports {name}"


def test_files_are_small_and_have_a_subject():
    sources = [p for folder in ("lam_jax", "experiments", "benchmarks", "tests") for p in modules(ROOT / folder)]
    long = {str(p.relative_to(ROOT)): n for p in sources if (n := len(p.read_text().splitlines())) > 400}
    assert not long, f"over 400 lines: {long}"
    assert not [p for p in sources if p.stem in {"utils", "util", "helpers", "misc"}]
