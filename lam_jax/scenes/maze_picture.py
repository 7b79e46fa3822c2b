"""Pictures of the game: 84 pixels high and 112 wide as all of the built-in world, the grid in the middle.

Free cells are light, walls dark, the goal's cell is yellow; figure and target are the world's own sprites.
"""

import functools
import io

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from lam_jax.scenes.compose import ASSETS, COLUMNS, HEIGHT, SPRITE, WIDTH, concepts
from lam_jax.scenes.maze import Cell, Maze

GROUND, FLOOR, WALL, GOAL = (120, 150, 130), (238, 236, 226), (70, 60, 66), (250, 214, 90)
MARGIN = 1  # pixels of the ground between cells, on each side


@functools.cache
def _sheet() -> Image.Image:
    return Image.open(ASSETS / "sprites.png").convert("RGBA")


@functools.cache
def _sprite(name: str, size: int) -> tuple[Float[np.ndarray, "S S 3"], Float[np.ndarray, "S S 1"]]:
    """Colour already times opacity, and one minus opacity."""
    index = next(concept.sprite for concept in concepts() if concept.name == name)
    left, top = index % COLUMNS * SPRITE, index // COLUMNS * SPRITE
    sprite = _sheet().crop((left, top, left + SPRITE, top + SPRITE)).convert("RGBa")
    pixels = np.asarray(sprite.resize((size, size), Image.Resampling.BICUBIC), np.float32)
    return np.ascontiguousarray(pixels[..., :3]), 1 - pixels[..., 3:] / 255


def render_maze(maze: Maze, figure: Cell | None = None) -> UInt8[np.ndarray, "84 112 3"]:
    """Pixels of a layout, RGB; `figure`: where the figure is, by default at the start."""
    side = min(HEIGHT // maze.rows, WIDTH // maze.columns)
    top, left = (HEIGHT - side * maze.rows) // 2, (WIDTH - side * maze.columns) // 2
    pixels = np.full((HEIGHT, WIDTH, 3), GROUND, np.float32)

    def corner(cell: Cell) -> tuple[int, int]:
        return top + cell[0] * side, left + cell[1] * side

    def stand(name: str, cell: Cell) -> None:
        size = side - 2 * MARGIN - 2
        y, x = (edge + MARGIN + 1 for edge in corner(cell))
        colour, through = _sprite(name, size)
        pixels[y : y + size, x : x + size] = pixels[y : y + size, x : x + size] * through + colour

    for row in range(maze.rows):
        for column in range(maze.columns):
            cell = row, column
            y, x = corner(cell)
            colour = WALL if cell in maze.walls else GOAL if cell == maze.goal else FLOOR
            pixels[y + MARGIN : y + side - MARGIN, x + MARGIN : x + side - MARGIN] = colour
    here = maze.start if figure is None else figure
    if here != maze.goal:
        stand(maze.target, maze.goal)
    stand(maze.figure, here)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def encode_maze(maze: Maze, figure: Cell | None = None) -> bytes:
    """The picture of a layout as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(render_maze(maze, figure)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
