"""The rows of a recipe or of plain files, read for `lam_jax.data.check`: no jax device is used, nothing is trained."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lam_jax.corpora.built import About, BuiltRows, is_built
from lam_jax.data.bad_rows import tolerant
from lam_jax.data.chat import ChatEncoder
from lam_jax.data.check import Found, Part
from lam_jax.data.collator import Collator, CollatorConfig
from lam_jax.data.layouts import RowParser
from lam_jax.data.schemas import DataError
from lam_jax.data.sources import JsonRows, RowSource
from lam_jax.formats.model_folder import tokenizer_folder
from lam_jax.models.processor import ImageSettings
from lam_jax.models.tokenizer import read_tokenizer
from lam_jax.pipeline.resources import model_config
from lam_jax.pipeline.usable import usable
from lam_jax.recipe import PAIRED, TEXT_ONLY, Corpus, Model, Recipe
from lam_jax.tasks.mmrole import MMRoleRows
from lam_jax.tasks.pcogalign import FILES, PCogAlignRows
from lam_jax.tasks.task import Task

ROWS = "rows"  # the one split of a plain file
MMROLE = ("sft", "rl", "sft_val", "rl_val", "id_test", "ood_test")
PCOGALIGN = ("sft", "rl", "val", "ls1", "ls2")
Kinds = Mapping[str, Collator]


@dataclasses.dataclass(frozen=True)
class Readable:
    """A source and how its splits are used.

    Attributes:
        name: of the source.
        rows: the source.
        splits: name of a split -> the collators of its batches.
        whole: splits whose rows go into a loss with their answers.
    """

    name: str
    rows: RowSource
    splits: Mapping[str, Kinds]
    whole: frozenset[str] = frozenset()

    def read(self, folder: Path) -> Found:
        """All splits, bad rows on the tally; `folder`: where the source builds what it needs.

        A split that cannot be read at all is among the errors.
        """
        parts, errors = [], []
        with tolerant() as tally:
            for split, kinds in self.splits.items():
                tally.duplicates.clear()
                try:
                    self.rows.prepare(folder)
                    examples = self.rows.read(folder, split)
                    if split == ROWS:  # of a plain file: as they stand there
                        examples = sorted(examples, key=lambda example: example.where.row or 0)
                    parts.append(Part(split, usable(examples, self.name, split in self.whole, tally), kinds))
                except DataError as error:
                    errors.append(str(error))
        return Found(self.name, parts, tally, list(dict.fromkeys(errors)))


class Collators:
    """Collators of a model's rows, by lengths and settings.

    Raises:
        FileNotFoundError, ValueError: the model's folder cannot be used.
    """

    def __init__(self, model: Model, padding: str = "right"):
        self.encoder = ChatEncoder(read_tokenizer(tokenizer_folder(model.path)), model_config(model))
        self.padding = padding

    def chats(self, lengths: Sequence[int], image: ImageSettings) -> Kinds:
        """Of whole rows."""
        return {"chat": Collator(self.encoder, CollatorConfig(tuple(lengths), padding=self.padding, image=image))}

    def prompts(self, lengths: Sequence[int], image: ImageSettings) -> Kinds:
        """Of rows up to the answer."""
        return {"prompt": Collator(self.encoder, CollatorConfig(tuple(lengths), "prompt", "left", image))}


def readable_of(recipe: Recipe) -> list[Readable]:
    """The sources of a recipe, each split with the batches that a run makes of it."""
    make = Collators(recipe.model, recipe.padding)
    image = recipe.image

    def corpus(name: str, found: Corpus) -> Readable:
        splits = (found.train, found.held_out)
        return Readable(name, found.rows, dict.fromkeys(splits, make.chats(found.lengths, image)), frozenset(splits))

    def task(found: Task) -> Readable:
        chats, prompts = make.chats(found.chat_lengths, image), make.prompts(found.prompt_lengths, image)
        rl = make.prompts(found.prompt_lengths, recipe.rl.image or image)
        tests = {scored.split: prompts for scored in found.tests.values()}
        splits = {found.sft: chats, found.rl: rl, found.val: {**chats, **prompts}, **tests}
        return Readable(found.name, found.rows, splits, frozenset((found.sft, found.val)))

    text = [corpus(TEXT_ONLY, recipe.text_only)] if recipe.text_only is not None else []
    return [corpus(PAIRED, recipe.paired), *text, *map(task, recipe.tasks)]


@dataclasses.dataclass(frozen=True)
class FileSettings:
    """How plain files are read.

    Attributes:
        model: whose tokenizer counts.
        image: how pictures become patches.
        chat_length, prompt_length: most tokens of a row, and of a prompt.
        image_root: folder that picture paths start from; None: that of the file.
        parser: makes examples of the rows of files.
    """

    model: Model
    image: ImageSettings
    chat_length: int
    prompt_length: int
    image_root: str | None = None
    parser: RowParser = RowParser()


def readable_files(files: Sequence[Path], settings: FileSettings) -> list[Readable]:
    """Files of rows, raw folders of MMRole and PCogAlignBench, and built folders, as sources."""
    make = Collators(settings.model)
    kinds = {
        **make.chats((settings.chat_length,), settings.image),
        **make.prompts((settings.prompt_length,), settings.image),
    }
    sides = [[path / side for side in (PAIRED, TEXT_ONLY) if is_built(path / side)] or [path] for path in files]
    return [_file(path, settings, kinds) for paths in sides for path in paths]


def _file(path: Path, settings: FileSettings, kinds: Kinds) -> Readable:
    images = settings.image_root or str(path)
    if is_built(path):
        return Readable(str(path), BuiltRows(str(path)), dict.fromkeys(About.of(path).rows, kinds))
    if (path / "dialogues").is_dir():
        beside = path / "images"  # as `lam-jax data build mmrole` takes them
        images = settings.image_root or str(beside if beside.is_dir() else path)
        return Readable(str(path), MMRoleRows(str(path), images), dict.fromkeys(MMROLE, kinds))
    if (path / f"{FILES[0]}.json").is_file():
        return Readable(str(path), PCogAlignRows(str(path), images), dict.fromkeys(PCOGALIGN, kinds))
    rows = JsonRows(str(path), {ROWS: (0.0, 1.0)}, settings.image_root, parse=settings.parser)
    return Readable(str(path), rows, {ROWS: kinds})


def quietly(read: Callable[[], list[Found]]) -> list[Found]:
    """What `read` gives; what sources say on the log about rows is in the report."""
    logger = logging.getLogger("lam_jax")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return read()
    finally:
        logger.setLevel(level)


def read_all(sources: Sequence[Readable], folder: Path) -> list[Found]:
    """Every source as it was read."""
    return quietly(functools.partial(_each, sources, folder))


def _each(sources: Sequence[Readable], folder: Path) -> list[Found]:
    return [source.read(folder) for source in sources]
