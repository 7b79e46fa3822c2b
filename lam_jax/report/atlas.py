"""The page of an atlas of codes: one HTML file without network, its style, pictures and small script inside.

All text of rows and models is escaped, and the browser is forbidden to load anything and to run any other script
(content security policy). To see it: `chromium --headless --no-sandbox --screenshot=atlas.png atlas.html`.
"""

import base64
import hashlib
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from lam_jax.models.decoding import ImageError, read_upright
from lam_jax.report.names import number
from lam_jax.report.plots import code_colour

THUMBNAIL = 168  # pixels of the longer side, shown at half of that
PICTURES = 3 << 20  # bytes of all thumbnails; further rows are shown without
LONGEST = 600  # characters of a text that are shown
Record = dict[str, Any]


def atlas_page(atlas: Record, pictures: Sequence[bytes | Path]) -> str:
    """The page.

    Args:
        atlas: what `lam_jax.code_atlas` found.
        pictures: by their numbers in the atlas.
    """
    codes = atlas["codes"]
    environment = _environment()
    script = environment.get_template("atlas.js").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    usage = atlas["groups"][0]["inverse"]["usage"]
    return environment.get_template("atlas.html").render(
        a=atlas,
        script=Markup(script),
        script_hash=digest,
        thumbnails=_thumbnails(pictures),
        colours=[code_colour(code, codes) for code in range(codes)],
        most_used=max(usage) or 1.0,
        heat=[group | {"image": _heat(_logs(group["inverse"]["usage"]))} for group in atlas["groups"]],
        flow=_matrix(np.array(atlas["transitions"]["counts"])),
        log_codes=math.log(codes),
        order=sorted(range(codes), key=lambda code: -usage[code]),
        moves=_moves(atlas),
        zip=zip,
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("lam_jax.report", "templates"),
        autoescape=lambda name: name is None or name.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(num=_num, pct=_percent, cut=_cut, shown=_shown, alike=_alike)
    return environment


def _num(value: Any, digits: int = 3) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return value if isinstance(value, str) else number(value, digits)


def _percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def _cut(text: str, most: int = LONGEST) -> str:
    return text if len(text) <= most else f"{text[:most]} …"


def _shown(piece: str) -> str:
    """A token's text with what would not be seen: line ends as ↵, an empty text as ∅."""
    return piece.replace("\n", "↵").replace("\t", "⇥") or "∅"


def _thumbnails(pictures: Sequence[bytes | Path]) -> list[str | None]:
    """Data addresses of small copies; None where a picture cannot be read or there are too many."""
    found: list[str | None] = []
    total = 0
    for source in pictures:
        address = None if total > PICTURES else _thumbnail(source)
        total += len(address or "")
        found.append(address)
    return found


def _thumbnail(source: bytes | Path) -> str | None:
    try:
        image = read_upright(source if isinstance(source, bytes) else source.read_bytes(), "picture")
    except (ImageError, OSError):
        return None
    image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    flat = Image.new("RGB", image.size, "white")
    flat.paste(image, mask=image if image.mode == "RGBA" else None)
    buffer = io.BytesIO()
    flat.save(buffer, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _alike(answers: Sequence[Record]) -> list[Record]:
    """Answers under each code, those that are the same together with their codes; first what most codes say."""
    found: dict[tuple[str, bool], list[int]] = {}
    for code, answer in enumerate(answers):
        found.setdefault((answer["text"], answer["finished"]), []).append(code)
    rows = [{"text": text, "finished": finished, "codes": codes} for (text, finished), codes in found.items()]
    return sorted(rows, key=lambda row: -len(row["codes"]))


def _logs(usage: Sequence[float]) -> np.ndarray:
    """Usage on the scale of the heat maps: 0 at uniform use, ±1 at 8 times that and an eighth."""
    return np.log(np.maximum(np.array(usage) * len(usage), 1e-9))[None] / math.log(8)


def _heat(values: np.ndarray) -> str:
    """A picture of numbers from -1 (blue) over 0 (grey) to 1 (orange), a pixel each."""
    low, middle, high = np.array([[38, 96, 164], [205, 208, 212], [200, 92, 12]], np.float64)
    x = np.clip(values, -1, 1)[..., None]
    rgb = middle + np.where(x > 0, x * (high - middle), -x * (low - middle))
    buffer = io.BytesIO()
    Image.fromarray(rgb.round().astype(np.uint8)).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _matrix(counts: np.ndarray) -> str:
    """Bigrams over chance: log2 of the lift over 4; pairs never seen where fewer than one is expected stay grey."""
    total = max(1, int(counts.sum()))
    chance = counts.sum(1)[:, None] * counts.sum(0)[None] / total
    lift = np.log2(np.maximum(counts, 0.25) / np.maximum(chance, 0.25)) / 4
    return _heat(np.where((counts == 0) & (chance < 1), 0.0, lift))


def _moves(atlas: Record) -> list[Record]:
    """The codes whose share of the policy's choices RL changed most; those that it did not change are left out."""
    rl = atlas["rl"]
    if rl is None:
        return []
    rows = [
        {"code": code, "before": one, "after": two, "own_before": three, "own_after": four}
        for code, (one, two, three, four) in enumerate(
            zip(*(rl[name] for name in ("usage_before", "usage_after", "own_usage_before", "own_usage_after")))
        )
    ]
    moved = [row for row in rows if (row["before"], row["own_before"]) != (row["after"], row["own_after"])]
    return sorted(moved, key=lambda row: -abs(row["own_after"] - row["own_before"]))[:12]
