"""The rules of the tree that a reader relies on: imports point one way, modules stay small."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "lam_jax"
# A package may import itself and what stands before it.
ORDER = (
    *("errors", "nn", "cpu", "losses", "rl", "parallel", "models", "latent", "formats", "data", "rewards", "tasks"),
    *(
        "rollout",
        "hosts",
        "runs",
        "train",
        "evaluation",
        "report",
        "values",
        "recipe",
        "pipeline",
        "scenes",
        "recipes",
        "aot",
        "cli",
        "__main__",
    ),
)
# What nn may import besides the standard library; the numeric core stays free of the rest of the ecosystem.
NN_MAY_IMPORT = {"jax", "jaxtyping", "flax.struct", "numpy", "lam_jax.nn"}


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
    assert layer(path) in ORDER, f"{layer(path)} has no place in the order of DESIGN's list"
    package = ".".join(path.relative_to(ROOT).parent.parts)
    assert violations(path.read_text(), package, layer(path)) == []


def test_nn_imports_only_jax():
    import sys

    for path in modules(PACKAGE / "nn"):
        for line, name in imports_of(path):
            standard = name.split(".")[0] in sys.stdlib_module_names
            allowed = any(name == prefix or name.startswith(prefix + ".") for prefix in NN_MAY_IMPORT)
            assert standard or allowed, f"{path.relative_to(ROOT)}:{line} imports {name}"


def test_torch_is_never_imported():
    for path in modules(PACKAGE):
        for line, name in imports_of(path):
            assert name.split(".")[0] not in {"torch", "tensorflow"}, f"{path.relative_to(ROOT)}:{line} imports {name}"


def test_files_are_small_and_have_a_subject():
    sources = [p for folder in ("lam_jax", "experiments", "benchmarks", "tests") for p in modules(ROOT / folder)]
    long = {str(p.relative_to(ROOT)): n for p in sources if (n := len(p.read_text().splitlines())) > 400}
    assert not long, f"over 400 lines: {long}"
    assert not [p for p in sources if p.stem in {"utils", "util", "helpers", "misc"}]
