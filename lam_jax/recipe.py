"""Recipe: the one value from which a whole run follows, and on which its fingerprint is computed.

Whatever a result depends on is in here; where it is written, which devices it runs on and how often it is saved is not.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from lam_jax.data.sources import RowSource
from lam_jax.evaluation.reach_settings import ReachSettings
from lam_jax.latent.config import LatentConfig
from lam_jax.models.processor import ImageSettings
from lam_jax.nn.stack import Remat, require_remat
from lam_jax.nn.stored import Storage
from lam_jax.rl import Algorithm
from lam_jax.rollout.sampling import SamplingConfig
from lam_jax.tasks.episodes import EpisodeTask
from lam_jax.tasks.task import Task, require_lengths
from lam_jax.train.method import Method
from lam_jax.train.optimiser import OptimiserConfig
from lam_jax.train.spaces import PAPER_SPACES, SPACES, require_emission, require_storage_of
from lam_jax.train.stages.step import Accumulation
from lam_jax.values import ValueFormError, decode, encode, fingerprint

PACKAGE = "lam_jax:"  # begins the path of a folder inside the package
PAIRED, TEXT_ONLY = "paired", "text_only"  # names of the corpora beside those of tasks

Weights = Literal["last", "best"]
BadRows = Literal["fail", "skip"]


def _one_of(value: Any, name: str, kind: Any) -> None:
    if (found := getattr(value, name)) not in get_args(kind):
        raise ValueError(f"{type(value).__name__}.{name} is {found!r}, expected one of {get_args(kind)}.")


def _at_least(value: Any, least: int, *names: str) -> None:
    for name in names:
        if getattr(value, name) < least:
            raise ValueError(f"{type(value).__name__}.{name} is {getattr(value, name)}, expected at least {least}.")


@dataclasses.dataclass(frozen=True)
class Model:
    """The backbone.

    Attributes:
        folder: with weights and tokenizer, of Hugging Face or made by `lam-jax convert`; "lam_jax:" in front means
            inside this package.
        compute_dtype: "float32" or "bfloat16"; None: what the folder's config.json says.
    """

    folder: str
    compute_dtype: str | None = None

    def __post_init__(self):
        if self.compute_dtype not in (None, "float32", "bfloat16"):
            raise ValueError(f"Model.compute_dtype is {self.compute_dtype!r}, expected 'float32', 'bfloat16' or None.")

    @property
    def path(self) -> Path:
        """The folder."""
        if self.folder.startswith(PACKAGE):
            return Path(__file__).parent / self.folder.removeprefix(PACKAGE)
        return Path(self.folder)


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Rows of stages 1 to 4.

    Attributes:
        rows: where they come from.
        lengths: buckets, tokens; longer rows are cut on the right.
        train, held_out: names of the splits.
        prompt_lengths: buckets of prompts, where a measure makes captions; None: no prompts are made.
    """

    rows: RowSource
    lengths: tuple[int, ...]
    train: str = "train"
    held_out: str = "test"
    prompt_lengths: tuple[int, ...] | None = None

    def __post_init__(self):
        require_lengths(self.lengths, "Corpus.lengths")
        if self.prompt_lengths is not None:
            require_lengths(self.prompt_lengths, "Corpus.prompt_lengths")


@dataclasses.dataclass(frozen=True)
class StageSettings:
    """One of stages 1 to 5.

    Attributes:
        rows: of a batch (and as many text-only rows where the stage reads them).
        optimiser: learning rate and schedule.
        steps, epochs: how long, one of them; an epoch is once over the paired or the task's rows.
        micro_batches: parts of a batch that are run one after the other, to save memory.
        accumulation: "exact" changes no number but rounding; "mean_of_means" averages the parts' losses, as released.
        weights: which go on, those of the last step or those that scored best on validation; the best are held beside
            those that train.
    """

    rows: int
    optimiser: OptimiserConfig
    steps: int | None = None
    epochs: float | None = None
    micro_batches: int = 1
    accumulation: Accumulation = "exact"
    weights: Weights = "last"

    def __post_init__(self):
        _at_least(self, 1, "rows", "micro_batches")
        _one_of(self, "weights", Weights)
        _one_of(self, "accumulation", Accumulation)
        if self.rows % self.micro_batches:
            raise ValueError(f"StageSettings.micro_batches {self.micro_batches} must divide rows {self.rows}.")
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(f"StageSettings: steps is {self.steps}, epochs {self.epochs}, expected one of the two.")
        if self.steps is not None:
            _at_least(self, 1, "steps")
        elif self.epochs is not None and not self.epochs > 0:
            raise ValueError(f"StageSettings.epochs is {self.epochs}, expected a number above 0.")

    def steps_of(self, examples: int) -> int:
        """Optimiser steps on that many rows."""
        return self.steps or math.ceil((self.epochs or 0) * examples / self.rows)


@dataclasses.dataclass(frozen=True)
class RLSettings:
    """Stage 6.

    Attributes:
        algorithm: which policy gradient.
        optimisers: by action space.
        sampling: how actions are drawn, by action space.
        task_algorithms: by task, instead of `algorithm`.
        steps: rollouts.
        prompts, samples: of each rollout, and of each prompt.
        epochs, mini_batches: passes over a rollout, and optimiser steps of a pass.
        micro_batches: parts of an optimiser step's prompts that are run one after the other, to save memory; changes no
            number but rounding.
        update_lengths: buckets below the answer's length at which updates run.
        remat: recompute activations in the update's backward pass; "products": all but those of products with weights.
        image: how pictures of stage 6 become patches; None: as everywhere else.
        weights: which are evaluated, as in `StageSettings`.
        validate_every: steps between two validations, by which the best weights are chosen; there is one before the
            first and one after the last step in any case. 0: only these.
        max_failed_steps: steps in a row of whose reward calls fewer than `least_usable` succeed, after which the run
            stops and says why they failed; 0: it never does.
        least_usable: share of a step's reward calls.
        overlap_scoring: the rewards of a rollout are asked for while the next one is drawn and the policy is updated.
            Each rollout but the first is then drawn from the policy before the update of the step before, and ratios
            are to the log-probabilities recorded with it.
        rollout_weights: how rollouts hold the frozen backbone: as everything else, or in "bfloat16" or "int8", which is
            faster to read (docs/method.md section 4); not in the token space. Answers that are scored: always "same".
    """

    algorithm: Algorithm
    optimisers: Mapping[str, OptimiserConfig]
    sampling: Mapping[str, SamplingConfig]
    task_algorithms: Mapping[str, Algorithm] = dataclasses.field(default_factory=dict)
    steps: int = 100
    prompts: int = 4
    samples: int = 8
    epochs: int = 1
    mini_batches: int = 1
    micro_batches: int = 1
    update_lengths: tuple[int, ...] = ()
    remat: Remat = False
    image: ImageSettings | None = None
    weights: Weights = "last"
    validate_every: int = 0
    max_failed_steps: int = 5
    least_usable: float = 0.1
    overlap_scoring: bool = False
    rollout_weights: Storage = "same"

    def __post_init__(self):
        _at_least(self, 1, "steps", "prompts", "epochs", "mini_batches", "micro_batches")
        _at_least(self, 0, "validate_every", "max_failed_steps")
        if not 0 <= self.least_usable <= 1:
            raise ValueError(f"RLSettings.least_usable is {self.least_usable}, expected a share between 0 and 1.")
        _at_least(self, 2, "samples")  # an advantage compares the samples of a prompt
        require_remat("RLSettings.remat", self.remat)
        if self.prompts % self.mini_batches:
            raise ValueError(f"RLSettings.mini_batches {self.mini_batches} must divide prompts {self.prompts}.")
        if self.prompts // self.mini_batches % self.micro_batches:
            raise ValueError(
                f"RLSettings.micro_batches {self.micro_batches} must divide the {self.prompts // self.mini_batches} "
                "prompts of a mini-batch."
            )
        if self.update_lengths:
            require_lengths(self.update_lengths, "RLSettings.update_lengths")
        _one_of(self, "weights", Weights)

    def algorithm_of(self, task: str) -> Algorithm:
        """The algorithm of a task."""
        return self.task_algorithms.get(task, self.algorithm)


@dataclasses.dataclass(frozen=True)
class AnswerSet:
    """Answers that are scored: `samples` of each prompt, drawn as `sampling` says for each action space."""

    samples: int
    sampling: Mapping[str, SamplingConfig]

    def __post_init__(self):
        _at_least(self, 2, "samples")  # diversity compares the samples of a prompt


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """What is measured after stages 4, 5 and 6 (method.md section 5).

    Attributes:
        answers: sets of answers that are scored; of the first of them some are shown, and their texts are checked.
        prompts: of each test split, the first ones; None: all.
        gain_prompts, gain_samples: fixed training prompts, and samples of each, on which RL's gain is measured.
        batch: prompts that are answered at a time.
        held_out: rows of a validation batch in stages 1 to 5.
        shown: answers of each split that are kept with their tokens and codes.
        embedder: of diversity, see `load_embedder`.
        backbone: figures of the backbone before training: (resources, agent) -> JSON values; None: none.
        least_used_share: of the codes, on held-out rows after stages 1 and 3; below it the run stops.
        reach: how far the codes can move the answers; None: it is not measured.
    """

    answers: tuple[AnswerSet, ...]
    prompts: int | None = None
    gain_prompts: int = 256
    gain_samples: int = 2
    batch: int = 64
    held_out: int = 32
    shown: int = 20
    embedder: str = "hashing"
    backbone: Callable[[Any, Any], dict[str, Any]] | None = None
    least_used_share: float = 0.1
    reach: ReachSettings | None = dataclasses.field(default_factory=ReachSettings)

    def __post_init__(self):
        _at_least(self, 1, "gain_prompts", "gain_samples", "batch", "held_out", "shown")
        if self.prompts is not None:
            _at_least(self, 1, "prompts")
        if not self.answers:
            raise ValueError("EvaluationSettings.answers is empty, expected one set of answers or more.")
        if not 0 <= self.least_used_share <= 1:
            raise ValueError(f"EvaluationSettings.least_used_share is {self.least_used_share}, expected 0 to 1.")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that the results of a run depend on, besides the code.

    Attributes:
        name: of the recipe, in reports.
        seed: of everything random.
        model: the backbone.
        latent: sizes of the latent modules.
        image: how pictures become patches.
        paired: rows of image and text.
        text_only: rows of text alone; None: stages 3 and 4 go without.
        tasks: what is fine-tuned and reinforced.
        spaces: action spaces of stages 5 and 6.
        padding: side on which training rows are padded.
        keep_prompt_header: a prompt that is cut keeps its chat's header, see `lam_jax/data/cuts.py`.
        method: switches of the method.
        inverse, projector, joint, cloning, sft: stages 1 to 5.
        rl: stage 6.
        evaluation: what is measured.
        bad_rows: a row that cannot be read ends the run, or is skipped: left out and counted, another in its place.
        max_bad_share: of the rows of a split that may be skipped; above it the run ends.
    """

    name: str
    model: Model
    latent: LatentConfig
    image: ImageSettings
    paired: Corpus
    text_only: Corpus | None
    tasks: tuple[Task, ...]
    inverse: StageSettings
    projector: StageSettings
    joint: StageSettings
    cloning: StageSettings
    sft: StageSettings
    rl: RLSettings
    evaluation: EvaluationSettings
    method: Method = dataclasses.field(default_factory=Method)
    spaces: tuple[str, ...] = PAPER_SPACES
    padding: Literal["left", "right"] = "right"
    keep_prompt_header: bool = True
    seed: int = 0
    bad_rows: BadRows = "fail"
    max_bad_share: float = 0.5  # more is a wrong setting, of the pictures' folder say, and no set with bad rows

    def __post_init__(self):
        names = [task.name for task in self.tasks]
        if len(set(names)) < len(names):
            raise ValueError(f"Recipe.tasks are named {names}, expected different names.")
        if taken := [name for name in names if name in (PAIRED, TEXT_ONLY)]:
            raise ValueError(f"Recipe.tasks holds {taken[0]!r}, the name of a corpus; expected another name.")
        if unknown := [space for space in self.spaces if space not in SPACES]:
            raise ValueError(f"Recipe.spaces holds {unknown[0]!r}, expected some of {list(SPACES)}.")
        if len(set(self.spaces)) < len(self.spaces):
            raise ValueError(f"Recipe.spaces is {self.spaces}, expected different spaces.")
        if self.padding not in ("left", "right"):
            raise ValueError(f"Recipe.padding is {self.padding!r}, expected 'left' or 'right'.")
        _one_of(self, "bad_rows", BadRows)
        if not 0 <= self.max_bad_share <= 1:
            raise ValueError(f"Recipe.max_bad_share is {self.max_bad_share}, expected 0 to 1.")
        if self.seed < 0:
            raise ValueError(f"Recipe.seed is {self.seed}, expected a number that is not negative.")
        if self.method.text_only and self.text_only is None:
            raise ValueError(
                "Recipe.text_only is None, but method.text_only asks for text-only rows: name a corpus, or set "
                "Method(text_only=False)."
            )
        if stray := sorted(set(self.rl.task_algorithms) - set(names)):
            raise ValueError(f"Recipe.rl.task_algorithms names {stray[0]!r}, expected some of the tasks {names}.")
        draws = {"rl.sampling": self.rl.sampling, "rl.optimisers": self.rl.optimisers}
        draws |= {f"evaluation.answers[{i}].sampling": s.sampling for i, s in enumerate(self.evaluation.answers)}
        for field, by_space in draws.items():
            if missing := [space for space in self.spaces if space not in by_space]:
                raise ValueError(f"Recipe.{field} has no entry for the space {missing[0]!r}, only {sorted(by_space)}.")
            if unknown := sorted(set(by_space) - set(SPACES)):
                raise ValueError(f"Recipe.{field} names {unknown[0]!r}, expected some of {list(SPACES)}.")
        require_storage_of("Recipe.rl.rollout_weights", self.rl.rollout_weights, [SPACES[name] for name in self.spaces])
        require_emission("Recipe.rl.sampling", self.rl.sampling, rollouts=True)
        for i, answers in enumerate(self.evaluation.answers):
            require_emission(f"Recipe.evaluation.answers[{i}].sampling", answers.sampling, rollouts=False)
        token = self.rl.sampling.get("token")
        if "token" in self.spaces and token and token.repetition_penalty != 1 and token.renormalise:
            raise ValueError(
                f"Recipe.rl.sampling['token'].repetition_penalty is {token.repetition_penalty}, whose distribution the "
                "loss does not score: set it to 1, or choose SamplingConfig.official() to score without it."
            )
        for task in self.tasks:
            self._require_reinforceable(task)

    def _require_reinforceable(self, task: Task) -> None:
        """What stage 6 would refuse, hours later."""
        if self.rl.update_lengths and self.rl.update_lengths[-1] >= task.answer_length:
            raise ValueError(
                f"Recipe.rl.update_lengths is {self.rl.update_lengths}, expected numbers below the answer_length "
                f"{task.answer_length} of task {task.name!r}."
            )
        algorithm = self.rl.algorithm_of(task.name)
        played = isinstance(task, EpisodeTask)
        if self.rl.overlap_scoring and (played or algorithm.dynamic_sampling_std is not None):
            found = "its environment answers" if played else f"{algorithm.name} (dynamic sampling) needs rewards"
            fix = "switch it off" if played else "switch it off, or choose another algorithm"
            raise ValueError(f"Task {task.name!r}: rl.overlap_scoring is on, but {found} before it goes on: {fix}.")
        if algorithm.normaliser == "local_tokens" and self.rl.micro_batches > 1:
            raise ValueError(
                f"Task {task.name!r}: rl.micro_batches is {self.rl.micro_batches}, but {algorithm.name} weighs a token "
                "by the tokens of its own part: set micro_batches to 1, or choose another algorithm."
            )

    def fingerprint(self) -> str:
        """SHA-256 of the whole value."""
        return fingerprint(self)

    def to_json(self) -> str:
        """The recipe as text that `from_json` reads."""
        return json.dumps(encode(self, "recipe"), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, stand_ins: bool = False) -> "Recipe":
        """A recipe from `to_json`'s text; classes and functions that it names are imported.

        Args:
            text: JSON.
            stand_ins: what lies outside lam_jax and is not imported yet becomes a stand-in, see `values.decode`.

        Raises:
            ValueFormError: the text is no recipe, with the place in it.
        """
        try:
            found = decode(json.loads(text), "recipe", stand_ins)
        except json.JSONDecodeError as error:
            raise ValueFormError(f"recipe: {error}") from error
        if not isinstance(found, cls):
            raise ValueFormError(f"recipe: found a {type(found).__name__}, expected a Recipe.")
        return found

    def __str__(self) -> str:
        return self.to_json()


def in_every_space(value: Any) -> dict[str, Any]:
    """The same settings in the latent and in the token space; `recipes.spaces` adds those of the hybrid."""
    return dict.fromkeys(PAPER_SPACES, value)
