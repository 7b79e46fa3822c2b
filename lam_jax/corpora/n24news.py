"""N24News: `{"section", "headline", "abstract", "caption", "image_id", "body"}` in one JSON list, pictures `ID.jpg`.

The picture's caption is the user's, the article (headline, abstract and, where it is there, body) the answer. Copies of
the set differ in the article's key: "body", or "article".
"""

import functools
import html
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lam_jax.corpora.files import LINES, LISTS, TABLES, find_files, records
from lam_jax.corpora.rows import Odd, Placed, Row, chat, counted, mapping, text
from lam_jax.data.readers import Drops, strip_image_tag
from lam_jax.data.schemas import Where, describe
from lam_jax.tasks.picture_files import MISSING, picture_file

FOLDERS = ("images", "imgs", "image")  # beside the JSON file
# What the set's own download stored as the body of articles that the site did not give it.
NO_BODY = "Please enable JS and disable any ad blocker"


def read_n24news(sources: Sequence[Path], images: Path | None, drops: Drops, light: bool = False) -> Iterator[Placed]:
    """Rows of JSON files, see the module and `Reader`; `images` defaults to the folder images or imgs beside a file."""
    for path in find_files(sources, (*LISTS, *LINES, *TABLES), "N24News' files"):
        beside = (path.parent / name for name in FOLDERS)
        root = images or next((folder for folder in beside if folder.is_dir()), path.parent)
        yield from counted(records(path, drops), functools.partial(_row, root=root), drops)


def _row(record: Any, where: Where, root: Path) -> Row:
    record = mapping(record)
    identifier = record.get("image_id")
    if not isinstance(identifier, str | int) or identifier == "":
        raise Odd("no id", describe(identifier))
    headline, abstract, caption = (_clean(record, key) for key in ("headline", "abstract", "caption"))
    body = _clean(record, "body") or _clean(record, "article")
    if body.startswith(NO_BODY):
        body = ""
    if not headline or not (abstract or body):
        raise Odd("no article", f"keys {sorted(key for key, value in record.items() if value)}")
    found = picture_file(root, f"{identifier}.jpg")
    if found == MISSING:
        found = picture_file(root, str(identifier))
    if isinstance(found, str):
        raise Odd(found, f"{identifier}.jpg")
    request = "Write the news article that this picture belongs to."
    if caption:
        request += f" Its caption: {caption}"
    return {
        "id": f"n24news/{identifier}",
        "images": [found],
        "messages": chat(request, "\n\n".join(part for part in (headline, abstract, body) if part)),
        "instance_type": text(record, "section") or "news",
    }


def _clean(record: dict[str, Any], key: str) -> str:
    return strip_image_tag(html.unescape(text(record, key))).strip()
