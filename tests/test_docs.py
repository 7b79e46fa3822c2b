"""What code and pages say about docs/ is there: cited sections exist, and so do the files that pages name."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CITED = ("method", "design")
PAGES = ("README.md", *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").glob("*.md"))))
# The one form: "method.md section 3"; in pages the name may be a link.
CITATION = re.compile(r"\b(method|design)\.md\)?\s+section\s+(\d+(?:\.\d+)?)")
OTHER_FORMS = re.compile(
    r"\b(?:METHOD|DESIGN)(?:\.md\b| section)|\b(?:method|design)\.md\)?,?\s+(?:sections|§|, section)"
)
FILE = re.compile(r"`([\w/]+\.(?:py|c))`")


def section_numbers(page: str) -> set[str]:
    return set(re.findall(r"^#{2,3} (\d+(?:\.\d+)?)\.? ", page, re.MULTILINE))


def citations(text: str) -> set[tuple[str, str]]:
    return set(CITATION.findall(text))


SECTIONS = {name: section_numbers((ROOT / "docs" / f"{name}.md").read_text()) for name in CITED}


def texts() -> list[Path]:
    folders = ("lam_jax", "tests", "benchmarks", "experiments", "docs")
    found = [path for folder in folders for end in ("py", "md") for path in (ROOT / folder).rglob(f"*.{end}")]
    return [*sorted(path for path in found if path != Path(__file__)), ROOT / "README.md"]


def test_the_rule_sees_links_and_line_ends():
    text = "(method.md section 3), [design.md](design.md) section\n4.4; METHOD section 9"
    assert citations(text) == {("method", "3"), ("design", "4.4")}
    assert OTHER_FORMS.findall(text) == ["METHOD section"]
    assert section_numbers("## 3. Stages\n### 4.4 Sharding\ntext 5. more\n") == {"3", "4.4"}


def test_cited_sections_exist():
    wrong, count = [], 0
    for path in texts():
        cited = citations(path.read_text())
        count += len(cited)
        wrong += [f"{path.relative_to(ROOT)}: {n}.md section {s}" for n, s in sorted(cited) if s not in SECTIONS[n]]
    assert not wrong, f"no such section: {wrong}"
    assert count > 30


def test_citations_have_one_form():
    wrong = {str(path.relative_to(ROOT)): found for path in texts() if (found := OTHER_FORMS.findall(path.read_text()))}
    assert not wrong, f"write 'method.md section 3': {wrong}"


@pytest.mark.parametrize("name", CITED)
def test_pages_cite_their_own_sections(name: str):
    page = (ROOT / "docs" / f"{name}.md").read_text()
    own = re.findall(r"(?<!\.md )(?<!\.md\) )section (\d+(?:\.\d+)?)", page)
    assert set(own) <= SECTIONS[name]


@pytest.mark.parametrize("page", PAGES)
def test_files_that_pages_name_exist(page: str):
    named = FILE.findall((ROOT / page).read_text())
    missing = [name for name in named if not any((ROOT / base / name).is_file() for base in ("", "lam_jax"))]
    assert not missing, f"{page} names {missing}"


LINK = re.compile(r"\]\(([^)#\s]+)(?:#([\w-]+))?\)")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page: str):
    folder = (ROOT / page).parent
    gone = [
        target
        for target, _ in LINK.findall((ROOT / page).read_text())
        if not target.startswith(("http:", "https:")) and not (folder / target).exists()
    ]
    assert gone in ([], ["commands.md"]), f"{page}: links to nothing: {gone}"
