"""WikiWeb2M: pages of Wikipedia, their sections, and the addresses of the pictures in them, which you fetch.

Either the published TFRecord files (`SequenceExample`s), or JSON Lines or Parquet with the same names: a page is an
object with "page_title", "page_url" and lists, one entry a section: "section_title", "section_text", and lists of
lists, one entry a picture: "section_image_url", "section_image_clean_ref_desc", "section_image_captions".

A row is a picture in its section: its caption, then the section's text, is the answer. The picture of
`https://upload.wikimedia.org/wikipedia/commons/a/ab/Cat.jpg` is looked for below the folder of the pictures as
`upload.wikimedia.org/wikipedia/commons/a/ab/Cat.jpg` (`wget -x`), as the same without the host (`wget -x -nH`), and as
`SHA256.jpg`, the SHA-256 of the address in hexadecimal digits. A bare `Cat.jpg` is not taken: names repeat.
"""

import functools
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from lam_jax.corpora.files import LINES, LISTS, TABLES, find_files, records, suffix
from lam_jax.corpora.rows import DESCRIBE, Odd, Placed, Row, chat, counted, pick, text
from lam_jax.corpora.tfrecord import sequence_examples
from lam_jax.data.readers import Drops, strip_image_tag
from lam_jax.data.schemas import DataError, Where, describe
from lam_jax.tasks.picture_files import MISSING, picture_file

JSON = (*LINES, *LISTS, *TABLES)
FIXED = "Name the folder of the pictures with --image-root."
CAPTIONS = ("section_image_clean_ref_desc", "section_image_captions", "section_image_alt_text")


def is_tfrecord(path: Path) -> bool:
    """Whether a name is that of a TFRecord file, such as `wikiweb2m-train.tfrecord.gz-00000-of-00005`."""
    return ".tfrecord" in path.name


def read_wikiweb2m(sources: Sequence[Path], images: Path | None, drops: Drops, light: bool = False) -> Iterator[Placed]:
    """Rows of TFRecord, JSON or Parquet files, see the module and `Reader`; a page gives a row for each picture."""
    if images is None:
        raise DataError(Where(str(sources[0])), None, "no folder of pictures", "the pictures that you fetched", FIXED)
    for path in _files(sources):
        pages = _pages(path, drops) if is_tfrecord(path) else records(path, drops)
        pictures = ((where, picture) for where, page in pages for picture in _pictures(page, where, drops))
        yield from counted(pictures, functools.partial(_row, root=images), drops)


def _files(sources: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for source in sources:
        inside = sorted(p for p in source.rglob("*") if is_tfrecord(p) and p.is_file()) if source.is_dir() else []
        found += inside or find_files([source], JSON, "WikiWeb2M's files")
    for path in found:
        if not is_tfrecord(path) and suffix(path) not in JSON:
            expected = f".tfrecord in the name, or one of {', '.join(JSON)}"
            raise DataError(Where(str(path)), None, "a file of another kind", expected, "Correct the path.")
    return found


def _pages(path: Path, drops: Drops) -> Iterator[tuple[Where, dict[str, Any]]]:
    """Pages of a TFRecord file: single values as they are, one-value features of a section too."""
    for where, context, lists in sequence_examples(path, drops):
        page: dict[str, Any] = {name: values[0] for name, values in context.items() if values}
        for name, sections in lists.items():
            many = name.startswith("section_image_")
            page[name] = sections if many else [values[0] if values else "" for values in sections]
        yield where, page


def _pictures(page: Any, where: Where, drops: Drops) -> Iterator[dict[str, Any]]:
    """Each picture of a page, with what stands around it; a page without pictures, or an odd one, is counted."""
    if not isinstance(page, dict):
        return drops.add("no object", where, describe(page))
    sections = page.get("section_image_url")
    if not isinstance(sections, list):
        return drops.add("no section_image_url", where, describe(sections))
    found = False
    for section, urls in enumerate(sections):
        for index, url in enumerate(urls if isinstance(urls, list) else [urls] if urls else []):
            if not isinstance(url, str) or not url:
                continue
            found = True
            captions = (_entry(page.get(key), section, index) for key in CAPTIONS)
            yield {
                "url": url,
                "caption": next((caption for caption in captions if caption), ""),
                "title": text(page, "page_title"),
                "section": _entry(page.get("section_title"), section),
                "text": _entry(page.get("section_text"), section),
                "id": f"wikiweb2m/{text(page, 'page_url') or text(page, 'page_title')}#{section}.{index}",
            }
    if not found:
        drops.add("page without images", where)


def _entry(values: Any, section: int, index: int | None = None) -> str:
    """The text of a section, or of a section's picture; empty where there is none."""
    value = values[section] if isinstance(values, list) and section < len(values) else None
    if index is not None and isinstance(value, list):
        value = value[index] if index < len(value) else None
    elif index:  # one text for a section of several pictures is the first one's
        value = None
    return value.strip() if isinstance(value, str) else ""


def _row(picture: Any, where: Where, root: Path) -> Row:
    caption, body = (strip_image_tag(picture[key]).strip() for key in ("caption", "text"))
    if not caption:
        raise Odd("no caption", picture["id"])
    file = _file(root, picture["url"])
    if isinstance(file, str):
        raise Odd(file, picture["url"])
    request = pick(DESCRIBE, picture["id"])
    if picture["title"]:
        section = f', section "{picture["section"]}"' if picture["section"] else ""
        request += f' It stands in the article "{picture["title"]}"{section}.'
        request += " Then write that section." if body else ""
    return {
        "id": picture["id"],
        "images": [file],
        "messages": chat(request, f"{caption}\n\n{body}" if body and picture["title"] else caption),
        "instance_type": "wikipedia",
    }


def _file(root: Path, url: str) -> Path | str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return MISSING
    path = parts.path.lstrip("/")
    names = [f"{parts.netloc}/{path}", path]
    names += [unquote(name) for name in names]
    hashed = hashlib.sha256(url.encode(errors="replace")).hexdigest() + PurePosixPath(path).suffix.lower()
    found: Path | str = MISSING
    for name in (*names, hashed):
        found = picture_file(root, name)
        if isinstance(found, Path):
            return found
    return found
