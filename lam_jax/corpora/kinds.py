"""What `lam-jax data build` builds: a reader and a published number of rows for each raw set, and the two tasks."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lam_jax.corpora.build import (
    Built,
    RecordWriter,
    Sampling,
    build_rows,
    in_order,
    no_rows,
    place_of,
    require_outside,
    sources_as_values,
    whole_build,
)
from lam_jax.corpora.built import About
from lam_jax.corpora.cc12m import read_cc12m
from lam_jax.corpora.llava_next import read_llava_next
from lam_jax.corpora.n24news import read_n24news
from lam_jax.corpora.pictures import PictureError, checked_picture, picture_bytes
from lam_jax.corpora.pretraining import PAIRED, TEXT_ONLY, read_pretraining_rows
from lam_jax.corpora.rows import Placed, Reader, Row, stored_messages
from lam_jax.corpora.texts import read_helpsteer3, read_slimpajama
from lam_jax.corpora.wikiweb2m import read_wikiweb2m
from lam_jax.data.bad_rows import Tally, tolerant
from lam_jax.data.readers import Drops
from lam_jax.data.schemas import DataError, Example, Where
from lam_jax.tasks import mmrole, pcogalign


@dataclasses.dataclass(frozen=True)
class Kind:
    """A raw set.

    Attributes:
        read: its reader.
        rows: the published number that is drawn; None: all.
    """

    read: Reader
    rows: int | None


KINDS: dict[str, Kind] = {
    "llava-next": Kind(read_llava_next, 100_000),
    "cc12m": Kind(read_cc12m, 20_000),
    "n24news": Kind(read_n24news, 50_000),
    "wikiweb2m": Kind(read_wikiweb2m, 50_000),
    "helpsteer3": Kind(read_helpsteer3, None),
    "slimpajama": Kind(read_slimpajama, 300_000),
}


def build_corpus(
    kind: str, sources: Sequence[Path], out: Path, sampling: Sampling, images: Path | None = None
) -> Built:
    """Builds one raw set of `KINDS` into `out`, with the splits train and test.

    Raises:
      DataError: a source that is not there or of another kind, or no row that can be used.
      BadSettingError: `out` holds something else.
    """
    arguments = _arguments(kind, sources, sampling, images)

    def rows(drops: Drops, light: bool) -> Iterator[Placed]:
        return KINDS[kind].read(sources, images, drops, light)

    require_outside(out, sources)
    return whole_build(out, arguments, lambda folder: build_rows(folder, kind, arguments, rows, sampling))


def build_pretraining(
    sources: Sequence[Path], out: Path, sampling: Sampling, images: Path | None = None
) -> dict[str, Built]:
    """Builds `out/paired` and `out/text_only` from files of pre-training rows and built folders.

    The split train of the shorter side stands for as many rows as the longer one has: its rows come again, evenly. A
    side without rows is left out.

    Raises:
      DataError: a source that is not there or of another kind, or no row that can be used.
      BadSettingError: `out` holds something else.
    """
    arguments = _arguments("pretraining", sources, sampling, images)
    sides: dict[str, Built] = {}

    def build(folder: Path) -> Built:
        for side in (PAIRED, TEXT_ONLY):

            def rows(drops: Drops, light: bool, side: str = side, first: bool = not sides) -> Iterator[Placed]:
                return read_pretraining_rows(sources, images, drops, side == PAIRED, light, first)

            if next(rows(Drops(), True), None) is not None:
                inner = folder / side
                inner.mkdir()
                sides[side] = build_rows(inner, side, arguments, rows, sampling)
        if not sides:
            raise no_rows(arguments, f"no row that can be used; {_all_drops(sources, images)}")
        longest = max(built.about.rows["train"] for built in sides.values())
        for side, built in sides.items():
            built.about = dataclasses.replace(built.about, stands_for=longest)
            built.about.write(folder / side)
        total = sum(built.about.read for built in sides.values())
        About("pretraining", arguments, {}, {}, {}, total, sum(b.about.drawn for b in sides.values()), {}).write(folder)
        return Built(next(iter(sides.values())).about, Drops())

    require_outside(out, sources)
    done = whole_build(out, arguments, build)
    if done.was_there:
        return {
            side: Built(About.of(out / side), Drops(), was_there=True)
            for side in (PAIRED, TEXT_ONLY)
            if (out / side).is_dir()
        }
    return sides


def _all_drops(sources: Sequence[Path], images: Path | None) -> Drops:
    drops = Drops()
    for paired in (True, False):
        for _ in read_pretraining_rows(sources, images, drops, paired, light=True, shared=paired):
            pass
    return drops


def build_mmrole(
    raw: Path, out: Path, sampling: Sampling, images: Path, kinds: Sequence[str] = (mmrole.COMMENT,)
) -> Built:
    """Builds MMRole's splits from its raw folder into `out`, an example a record.

    Raises:
      DataError: the folder's layout is another, a file is not JSON, or no dialogue can be used.
      BadSettingError: `out` holds something else.
    """
    arguments = _arguments("mmrole", [raw / "dialogues", raw / "profiles"], sampling, images) | {"kinds": list(kinds)}

    def build(folder: Path) -> Built:
        with tolerant() as tally:
            splits, drops = mmrole.read_mmrole(raw, images, sampling.seed, kinds)
        _count_refused(tally, drops)
        return _build_examples(folder, "mmrole", arguments, vars(splits), drops, sampling)

    require_outside(out, [raw / "dialogues", raw / "profiles"])
    return whole_build(out, arguments, build)


def build_pcogalign(
    folder: Path, kind: str, arguments: Mapping[str, Any], images: Path, sampling: Sampling, drops: Drops
) -> Built:
    """Writes the records of a folder with the benchmark's three golden files beside them."""
    with tolerant() as tally:
        splits, odd = pcogalign.read_pcogalign(folder, images, sampling.seed)
    _count_refused(tally, odd)
    for drop in odd.places:
        drops.add(drop.reason, drop.where, drop.detail)
    return _build_examples(folder, kind, arguments, vars(splits), drops, sampling)


def _count_refused(tally: Tally, drops: Drops) -> None:
    """Counts the rows whose examples were refused, besides those that were counted as they were read."""
    for dropped in [row for row in tally.dropped.values() if row.reason not in drops.counts]:
        drops.add("unusable row", dropped.where, dropped.text)


def _build_examples(
    folder: Path,
    kind: str,
    arguments: Mapping[str, Any],
    splits: Mapping[str, Sequence[Example]],
    drops: Drops,
    sampling: Sampling,
) -> Built:
    """Records of examples, each as a chat row; an example whose picture cannot be decoded is counted."""
    examples = sum(map(len, splits.values()))
    if not examples:
        raise no_rows(arguments, f"no row that can be used; {drops}")
    writer, read = RecordWriter(folder, kind, arguments, parser="chat"), examples + drops.total

    def made(example: Example) -> tuple[Example, tuple[Row, list[bytes]] | PictureError]:
        try:
            pictures = [checked_picture(picture_bytes(p), example.where, sampling.pixels) for p in example.images]
        except PictureError as error:
            return example, error
        row = {"id": example.id, "messages": stored_messages(example), "place": place_of(example.where, folder)}
        return example, (row | ({} if example.facts is None else {"facts": example.facts}), pictures)

    def records(chosen: Iterable[Example]) -> Iterator[tuple[Row, list[bytes]]]:
        for example, record in in_order(made, chosen, sampling.workers):
            if isinstance(record, PictureError):
                drops.add(record.reason, example.where, record.detail)
            else:
                yield record

    writer.write({name: lambda chosen=chosen: records(chosen) for name, chosen in splits.items() if chosen}, drops)
    return Built(writer.finish(drops, read, examples), drops)


def _arguments(kind: str, sources: Sequence[Path], sampling: Sampling, images: Path | None) -> dict[str, Any]:
    """What a build depends on; how many threads do it is not of it."""
    for source in (*sources, *([images] if images else [])):
        if not source.exists():
            raise DataError(
                Where(str(source)), None, "no such file or folder", f"a source of {kind}", "Correct the path."
            )
    settings = dataclasses.asdict(sampling)
    del settings["workers"]
    return {
        "kind": kind,
        "sources": sources_as_values(sources),
        "images": str(images.resolve()) if images else None,
        **settings,
    }
