"""Pictures of the data set: one to three objects, left to right, on one of twelve backgrounds.

A `Scene` is drawn from a random generator and says everything about its picture; `render` and `encode_png` turn it into
pixels. Pictures are 84 pixels high and 112 wide, 6 x 8 patches of 14 pixels. Equal generators give equal bytes.
"""

import functools
import io
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

HEIGHT, WIDTH = 84, 112
MIN_SIZE, MAX_SIZE = 26, 38
ASSETS = Path(__file__).parent / "assets" / "emoji"
SPRITE, COLUMNS = 32, 16

# Background -> its preposition, and its place in the picture: ("ground", sky top, sky bottom, ground),
# ("checker" or "columns" or "rows", colour, other colour).
Colour = tuple[int, int, int]
BACKGROUNDS: dict[str, tuple[str, str, tuple[Colour, ...]]] = {
    "meadow": ("in", "ground", ((178, 216, 245), (222, 239, 250), (150, 196, 112))),
    "beach": ("on", "ground", ((130, 205, 235), (190, 232, 245), (240, 222, 170))),
    "desert": ("in", "ground", ((250, 190, 130), (252, 222, 170), (214, 164, 100))),
    "harbor": ("at", "ground", ((226, 236, 244), (204, 222, 238), (84, 134, 196))),
    "street": ("on", "ground", ((206, 206, 214), (226, 226, 230), (130, 130, 140))),
    "mountain": ("on", "ground", ((160, 176, 206), (200, 210, 228), (244, 248, 252))),
    "camp": ("at", "ground", ((46, 52, 104), (92, 92, 150), (70, 106, 92))),
    "kitchen": ("in", "checker", ((240, 244, 246), (176, 214, 216))),
    "stage": ("on", "columns", ((150, 72, 88), (178, 96, 108))),
    "garden": ("in", "columns", ((204, 232, 170), (180, 216, 150))),
    "library": ("in", "rows", ((206, 180, 150), (180, 150, 120))),
    "gym": ("in", "checker", ((244, 228, 150), (232, 210, 120))),
}


@dataclass(frozen=True)
class Concept:
    """A thing that can be in a picture; `sprite` is its place in the sheet."""

    name: str
    plural: str
    category: str
    sprite: int


@dataclass(frozen=True)
class Placed:
    """A concept in a picture: centre x (right) and y (down) and size in pixels, and whether it is mirrored."""

    concept: Concept
    x: int
    y: int
    size: int
    flip: bool

    @property
    def name(self) -> str:
        """The concept's name."""
        return self.concept.name


@dataclass(frozen=True)
class Scene:
    """A picture: objects from left to right, the background's name, and the offset added to its colours."""

    objects: tuple[Placed, ...]
    background: str
    tint: Colour

    @property
    def place(self) -> str:
        """The background with its preposition: "on the beach"."""
        return f"{BACKGROUNDS[self.background][0]} the {self.background}"

    @property
    def names(self) -> list[str]:
        """Names from left to right; a name comes as often as it is in the picture."""
        return [placed.name for placed in self.objects]

    @property
    def uniform(self) -> bool:
        """Several of one concept and nothing else."""
        return len(self.objects) > 1 and len(set(self.names)) == 1

    def fact_objects(self) -> list[dict[str, Any]]:
        """The `objects` entry of a row's facts."""
        return [
            {"name": o.name, "category": o.concept.category, "x": o.x, "y": o.y, "size": o.size} for o in self.objects
        ]


@functools.cache
def concepts() -> tuple[Concept, ...]:
    """All concepts, in the order of the sprite sheet."""
    rows = json.loads((ASSETS / "concepts.json").read_text())
    return tuple(Concept(row["name"], row["plural"], row["category"], i) for i, row in enumerate(rows))


@functools.cache
def categories() -> dict[str, tuple[Concept, ...]]:
    """Concepts by category."""
    groups: dict[str, list[Concept]] = {}
    for concept in concepts():
        groups.setdefault(concept.category, []).append(concept)
    return {name: tuple(group) for name, group in groups.items()}


def draw_scene(rng: random.Random, most: int = 3) -> Scene:
    """A random scene of up to `most` objects: mostly different concepts, sometimes two or three of one."""
    number = rng.choices((1, 2, 3)[:most], (25, 45, 30)[:most])[0]
    if number > 1 and rng.random() < 0.2:
        chosen = [rng.choice(concepts())] * number
    else:
        chosen = rng.sample(concepts(), number)
    slot = WIDTH / number
    placed = []
    for i, concept in enumerate(chosen):
        size = rng.randint(MIN_SIZE, min(MAX_SIZE, int(slot)))
        x = rng.randint(int(i * slot + size / 2), int((i + 1) * slot - size / 2))
        y = rng.randint(size // 2 + 2, HEIGHT - 2 - (size + 1) // 2)
        placed.append(Placed(concept, x, y, size, rng.random() < 0.5))
    tint = (rng.randint(-10, 10), rng.randint(-10, 10), rng.randint(-10, 10))
    return Scene(tuple(placed), rng.choice(tuple(BACKGROUNDS)), tint)


@functools.cache
def _sheet() -> Image.Image:
    return Image.open(ASSETS / "sprites.png").convert("RGBA")


@functools.lru_cache(maxsize=4096)
def _sprite(index: int, size: int, flip: bool) -> tuple[Float[np.ndarray, "S S 3"], Float[np.ndarray, "S S 1"]]:
    """Colour already times opacity, and one minus opacity, of a sprite at a size."""
    left, top = index % COLUMNS * SPRITE, index // COLUMNS * SPRITE
    sprite = _sheet().crop((left, top, left + SPRITE, top + SPRITE)).convert("RGBa")
    sprite = sprite.resize((size, size), Image.Resampling.BICUBIC)
    pixels = np.asarray(sprite, np.float32)
    if flip:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels[..., :3]), 1 - pixels[..., 3:] / 255


@functools.cache
def _background(name: str) -> Float[np.ndarray, "84 112 3"]:
    _, kind, colours = BACKGROUNDS[name]
    palette = np.asarray(colours, np.float32)
    rows, columns = np.indices((HEIGHT, WIDTH))
    if kind == "ground":
        horizon = int(HEIGHT * 0.6)
        share = np.clip(rows / horizon, 0, 1)[..., None]
        sky = palette[0] * (1 - share) + palette[1] * share
        return np.where((rows < horizon)[..., None], sky, palette[2]).astype(np.float32)
    choice = {"checker": rows // 12 + columns // 12, "columns": columns // 8, "rows": rows // 10}[kind] % 2
    return palette[choice]


def render(scene: Scene) -> UInt8[np.ndarray, "84 112 3"]:
    """Pixels of a scene, RGB."""
    pixels = _background(scene.background) + np.asarray(scene.tint, np.float32)
    for placed in scene.objects:
        top, left = placed.y - placed.size // 2, placed.x - placed.size // 2
        colour, through = _sprite(placed.concept.sprite, placed.size, placed.flip)
        window = pixels[top : top + placed.size, left : left + placed.size]
        window *= through
        window += colour
    return np.clip(pixels, 0, 255).astype(np.uint8)


def encode_png(scene: Scene) -> bytes:
    """The picture of a scene as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(render(scene)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
