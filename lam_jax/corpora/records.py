"""Rows to ArrayRecord through a `tensorflow-datasets` builder, without TensorFlow.

A record holds a row's JSON and, beside it, the encoded bytes of its pictures. Rows come in the order of a hash of their
numbers: tensorflow-datasets sorts by it in pieces on disk, so a set may be larger than memory.
"""

import contextlib
import io
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

VERSION = "1.0.0"
Record = tuple[dict[str, Any], list[bytes]]  # a JSON-able row, and its pictures


class Corpus(tfds.core.GeneratorBasedBuilder):
    """Rows of any splits.

    Args:
      splits: name -> what gives the split's records; called once, in this order.
      **options: tfds's own (`data_dir`, `file_format`).
    """

    VERSION = tfds.core.Version(VERSION)

    def __init__(self, *, splits: Mapping[str, Callable[[], Iterator[Record]]], **options: Any):
        self._splits = splits
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {"row": tfds.features.Text(), "images": tfds.features.Sequence(tfds.features.Text())}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, Any]]]:
        return {split: self._generate_examples(records) for split, records in self._splits.items()}

    def _generate_examples(self, records: Callable[[], Iterator[Record]]) -> Iterator[tuple[int, Any]]:
        for number, (row, images) in enumerate(records()):
            yield number, {"row": json.dumps(row, ensure_ascii=False), "images": images}


def write_records(folder: Path, splits: Mapping[str, Callable[[], Iterator[Record]]]) -> None:
    """Writes the splits into `folder`, which tensorflow-datasets then reads by `builder_from_directory`.

    Raises:
      OSError: the folder cannot be written, or the disk is full.
    """
    inner = folder / ".building"
    builder = Corpus(splits=splits, data_dir=inner, file_format="array_record")
    tfds.disable_progress_bar()
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(download_config=config)
    for path in Path(builder.data_dir).iterdir():
        path.rename(folder / path.name)
    shutil.rmtree(inner)


def read_records(folder: Path, split: str) -> Any:
    """The records of a split by number, as {"row": text, "images": [bytes]}; read as they are asked for."""
    return tfds.builder_from_directory(str(folder)).as_data_source(split=split)  # pyright: ignore[reportCallIssue]
