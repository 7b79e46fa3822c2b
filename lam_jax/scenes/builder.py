"""The data set "scenes" on disk: a `tensorflow-datasets` builder (ArrayRecord, no TensorFlow) and its reader.

A record holds the row's JSON, in the layout of the real data set that it stands for, and its PNG bytes beside it.
Reading puts the bytes where the layout has a path and hands the row to that layout's own reader.

    folder = prepare(out / "data", SceneSizes())      # seconds; nothing to do if it is there already
    examples = read_split(folder, "role_play", "sft")
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from lam_jax.data.readers import pretraining_examples
from lam_jax.data.schemas import DataError, Example, Where
from lam_jax.scenes import rows
from lam_jax.tasks import mmrole, pcogalign
from lam_jax.tasks.mmrole import mmrole_examples
from lam_jax.tasks.pcogalign import pcogalign_examples

VERSION = "1.0.0"
# Modules of this package that the records depend on.
WRITES_RECORDS = (
    "advice",
    "builder",
    "captions",
    "characters",
    "compose",
    "grammar",
    "language",
    "rows",
    "speech",
    "words",
)
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class SceneSizes:
    """Rows of each split; in role play a row is a conversation of one to three turns, each of them an example.

    Row i of a split does not depend on these sizes: a larger data set starts with the rows of a smaller one.
    """

    paired: Mapping[str, int] = dataclasses.field(
        default_factory=lambda: {"train": 12_000, "test": 256, "caption_test": 256}
    )
    text_only: Mapping[str, int] = dataclasses.field(default_factory=lambda: {"train": 43_200, "test": 256})
    role_play: Mapping[str, int] = dataclasses.field(
        default_factory=lambda: {"sft": 1_200, "rl": 800, "val": 64, "id_test": 192, "ood_test": 192}
    )
    help: Mapping[str, int] = dataclasses.field(
        default_factory=lambda: {"sft": 1_600, "rl": 1_200, "val": 96, "ls1": 256, "ls2": 256}
    )

    def __post_init__(self):
        for config, splits in GENERATORS.items():
            sizes = getattr(self, config)
            if set(sizes) != set(splits):
                raise ValueError(f"SceneSizes.{config} must hold the splits {sorted(splits)}, got {sorted(sizes)}.")
            for split, size in sizes.items():
                if size < 1:
                    raise ValueError(f"SceneSizes.{config}[{split!r}] must be at least 1, got {size}.")


GENERATORS: dict[str, dict[str, Callable[[int], Row]]] = {
    "paired": {
        "train": rows.paired,
        "test": lambda index: rows.paired(index, "paired_test"),
        "caption_test": rows.caption_test,
    },
    "text_only": {"train": rows.text_only, "test": lambda index: rows.text_only(index, "text_only_test")},
    "role_play": {split: lambda index, split=split: rows.role_play(split, index) for split in rows.ROLE_PLAY_SPLITS},
    "help": {split: lambda index, split=split: rows.help_row(split, index) for split in rows.HELP_SPLITS},
}
READERS = {
    "paired": pretraining_examples,
    "text_only": pretraining_examples,
    "role_play": mmrole_examples,
    "help": pcogalign_examples,
}


def take_images(row: Row) -> tuple[Row, list[bytes]]:
    """A JSON-able copy of a row, and the bytes that stood where the layouts have image paths."""
    if "image_path" in row:
        return row | {"image_path": None}, [row["image_path"]]
    if "image" in row:
        return row | {"image": {"file_path": None}}, [row["image"]["file_path"]]
    return {key: value for key, value in row.items() if key != "images"}, list(row.get("images", []))


def put_images(row: Row, images: list[bytes]) -> Row:
    """Inverse of `take_images`."""
    if "image_path" in row:
        return row | {"image_path": images[0]}
    if "image" in row:
        return row | {"image": {"file_path": images[0]}}
    return row | {"images": images} if images else row


class Scenes(tfds.core.GeneratorBasedBuilder):
    """Composed pictures with captions, questions, role play and personalised help; one configuration each.

    Args:
      sizes: rows of each split.
      **options: tfds's own (`config`, `data_dir`, `file_format`).
    """

    VERSION = tfds.core.Version(VERSION)
    BUILDER_CONFIGS = [  # noqa: RUF012, a name that tfds reads from the class
        tfds.core.BuilderConfig(name=name, description=f"scenes: {name}") for name in GENERATORS
    ]

    def __init__(self, *, sizes: SceneSizes | None = None, **options: Any):
        self._sizes = sizes or SceneSizes()
        super().__init__(**options)

    @property
    def _config_name(self) -> str:
        assert self.builder_config is not None, "tfds always sets one, since the class lists some"
        return self.builder_config.name

    def _info(self) -> tfds.core.DatasetInfo:
        features = {"row": tfds.features.Text(), "images": tfds.features.Sequence(tfds.features.Text())}
        # Rows keep their order: row i of the file is row i of the generator.
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, Row]]]:
        sizes = getattr(self._sizes, self._config_name)
        return {split: self._generate_examples(split, size) for split, size in sizes.items()}

    def _generate_examples(self, split: str, size: int) -> Iterator[tuple[int, Row]]:
        make = GENERATORS[self._config_name][split]
        for index in range(size):
            row, images = take_images(make(index))
            yield index, {"row": json.dumps(row, ensure_ascii=False), "images": images}


def fingerprint(sizes: SceneSizes) -> str:
    """Hash of everything that the records depend on: sizes, and the generator's code and assets."""
    digest = hashlib.sha256(json.dumps([VERSION, dataclasses.asdict(sizes)], sort_keys=True).encode())
    here = Path(__file__).parent
    sources = [here / f"{name}.py" for name in WRITES_RECORDS] + list((here / "assets" / "emoji").glob("*.[jp]*"))
    for path in sorted([*sources, Path(mmrole.__file__), Path(pcogalign.__file__)]):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def prepare(folder: Path, sizes: SceneSizes | None = None) -> Path:
    """Folder of the built data set under `folder`; builds it unless the same rows are there already.

    The build happens in a folder of its own that gets its final name at the end, so a killed build leaves nothing that
    could be taken for a data set.

    Raises:
      OSError: the folder cannot be written, or the disk is full.
    """
    sizes = sizes or SceneSizes()
    target = folder / f"scenes-{fingerprint(sizes)}"
    if target.is_dir():
        return target
    _remove_abandoned(folder)
    building = folder / f".building-{socket.gethostname()}-{os.getpid()}"
    try:
        for name in GENERATORS:
            _build(Scenes(sizes=sizes, config=name, data_dir=building, file_format="array_record"))
        try:
            building.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was faster, and its rows are the same
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return target


def _build(builder: Scenes) -> None:
    """`download_and_prepare` without its bars and banners, which would tear up the run's own progress display."""
    tfds.disable_progress_bar()
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(download_config=config)


def _remove_abandoned(folder: Path) -> None:
    """Delete the unfinished folders of dead processes of this machine."""
    prefix = f".building-{socket.gethostname()}-"
    for path in folder.glob(f"{prefix}*"):
        try:
            os.kill(int(path.name.removeprefix(prefix)), 0)
        except ProcessLookupError:
            shutil.rmtree(path, ignore_errors=True)
        except (ValueError, PermissionError):
            continue


def read_split(folder: Path, config: str, split: str) -> list[Example]:
    """Examples of one split of a folder that `prepare` returned, in the generator's order.

    Raises:
      DataError: no such configuration or split, or a file that is missing or damaged.
    """
    where = Where(str(folder / "scenes" / config / VERSION))
    fix = "Delete the folder; it is built anew by the next run."
    if config not in GENERATORS or split not in GENERATORS[config]:
        known = ", ".join(f"{name}/{part}" for name, parts in GENERATORS.items() for part in parts)
        raise DataError(where, None, f"no split {config}/{split}", f"one of {known}", "Correct the name.")
    try:
        source = tfds.builder_from_directory(where.file).as_data_source(split=split)  # pyright: ignore[reportCallIssue]
        records = source.__getitems__(range(len(source)))
    except Exception as error:  # tfds and array_record raise many kinds, all of them about the files here
        raise DataError(where, None, f"{type(error).__name__}: {error}", "readable records", fix) from error
    examples: list[Example] = []
    for index, record in enumerate(records):
        place = Where(f"scenes/{config}/{split}", index)
        row = put_images(json.loads(record["row"]), list(record["images"]))
        examples += READERS[config](row, place)
    return examples
