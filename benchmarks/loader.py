"""Does the loader keep ahead of a step, and does its memory stay flat? `python -m benchmarks.loader`

Made-up JPEGs, more than would fit into memory when they are decoded, are read for `--batches` batches with each
number of workers. Printed: pictures a second, the time that a step of `--step` seconds waits for its batch, and the
resident memory of this process and of its workers, after four batches, eight times on the way, and at the end.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from lam_jax.data.chat import ChatEncoder
from lam_jax.data.collator import Collator, CollatorConfig
from lam_jax.data.loader import Loader, LoaderConfig
from lam_jax.data.schemas import Example, Where
from lam_jax.models.processor import ImageSettings
from lam_jax.models.tokenizer import read_tokenizer
from lam_jax.pipeline.resources import model_config
from lam_jax.recipe import Model
from lam_jax.recipes.settings import IMAGE, SHIPPED_MODEL

CHAT = ({"role": "user", "content": "What is there?"}, {"role": "assistant", "content": "A lion under a tree."})
KINDS = 64  # different pictures; the files are links to these
MIB = 2**20


def make_rows(folder: Path, count: int, side: tuple[int, int]) -> list[Example]:
    """Rows with a JPEG each, of `side` (width, height)."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(count):
        path = folder / f"{number}.jpg"
        if number < KINDS:
            noise = rng.integers(0, 256, (side[1] // 8, side[0] // 8, 3), np.uint8)
            Image.fromarray(noise).resize(side).save(path, quality=90)
        else:
            path.hardlink_to(folder / f"{number % KINDS}.jpg")
        rows.append(Example(str(number), CHAT, (path,), None, Where("made", number)))
    return rows


def resident() -> tuple[int, int]:
    """MiB of this process, and of its workers together."""
    process = psutil.Process()
    workers = sum(child.memory_info().rss for child in process.children(recursive=True))
    return process.memory_info().rss // MIB, workers // MIB


def measure(rows: list[Example], workers: int, batch: int, batches: int, step: float, image: ImageSettings) -> dict:
    """Reads `batches` batches, first as fast as it goes, then with a step of `step` seconds between two."""
    model = Model(SHIPPED_MODEL)
    encoder = ChatEncoder(read_tokenizer(model.path), model_config(model))
    collate = Collator(encoder, CollatorConfig((512,), image=image), workers)
    loader = Loader(rows, collate, LoaderConfig(batch, prefetch=4))
    for _ in range(4):
        next(loader)
    memory = [resident()]
    began = time.perf_counter()
    for number in range(batches):
        next(loader)
        if number % max(1, batches // 8) == max(1, batches // 8) - 1:
            memory.append(resident())
    seconds = time.perf_counter() - began
    waits = []
    for _ in range(min(batches, 30)):
        time.sleep(step)  # as a step on an accelerator: this host's cores are free
        began = time.perf_counter()
        next(loader)
        waits.append(time.perf_counter() - began)
    memory.append(resident())
    return {
        "workers": workers,
        "pictures_per_s": round(batch * batches / seconds, 1),
        "batch_s": round(seconds / batches, 4),
        "wait_median_s": round(float(np.median(waits)), 4),
        "wait_longest_s": round(max(waits), 4),
        "rss_mib": [own for own, _ in memory],
        "rss_workers_mib": [others for _, others in memory],
    }


def main() -> None:
    """Measures and prints a line of JSON for each number of workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--batches", type=int, default=100)
    parser.add_argument("--step", type=float, default=0.5, help="seconds of a step")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--height", type=int, default=768)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = make_rows(Path(folder), options.rows, (options.width, options.height))
        patches = IMAGE.grid(1, 1)[1] * IMAGE.grid(1, 1)[2] * IMAGE.patch_dim * 4
        print(
            json.dumps(
                {
                    "rows": options.rows,
                    "decoded_gib": round(options.rows * options.width * options.height * 3 / 2**30, 1),
                    "patches_gib": round(options.rows * patches / 2**30, 1),
                    "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
                }
            )
        )
        for workers in options.workers:
            print(json.dumps(measure(rows, workers, options.batch, options.batches, options.step, IMAGE)), flush=True)


if __name__ == "__main__":
    main()
