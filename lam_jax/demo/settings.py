"""Settings of the demo: sizes and steps that aim at ten minutes for the whole method on two quiet CPU cores."""

import dataclasses

from lam_jax.rl import ALGORITHMS
from lam_jax.scenes.builder import SceneSizes
from lam_jax.train.method import Method
from lam_jax.train.optimiser import OptimiserConfig

IMAGE_SIZE = (84, 112)  # height, width
# Tokens: the longest row of the data set, rounded up a little. Rows of `help` would fit into 120 and 64, but with the
# shapes of the other task it finds all its programs compiled, and that takes longer than the padding.
CHAT_LENGTHS = {"paired": 96, "text_only": 120, "role_play": 184, "help": 184}
PROMPT_LENGTHS = {"paired": 64, "role_play": 160, "help": 160}
ANSWER_LENGTH = 56
TASK_SPLITS = {"role_play": ("id_test", "ood_test"), "help": ("ls1", "ls2")}
DEFAULT_ALGORITHMS = {"role_play": "dapo", "help": "grpo"}


def demo_sizes() -> SceneSizes:
    """Rows of the built-in data set; text-only data are five times the paired data in tokens."""
    return SceneSizes(
        paired={"train": 6_000, "test": 128, "caption_test": 128},
        text_only={"train": 21_600, "test": 128},
        role_play={"sft": 1_000, "rl": 400, "val": 32, "id_test": 96, "ood_test": 96},
        help={"sft": 1_600, "rl": 600, "val": 32, "ls1": 96, "ls2": 96},
    )


@dataclasses.dataclass(frozen=True)
class StageSettings:
    """Steps and optimiser of a stage; `rows` of each batch (and as many text-only rows where a stage reads them)."""

    steps: int
    rows: int
    optimiser: OptimiserConfig


@dataclasses.dataclass(frozen=True)
class DemoConfig:
    """Everything that a demo run depends on.

    Attributes:
        seed: of everything random.
        preset: model size.
        tasks: which tasks are trained.
        algorithms: RL algorithm of each task.
        method: switches of the method.
        sizes: rows of the built-in data set.
        inverse, projector, joint, cloning, sft: stages 1 to 5.
        rl_steps, rl_prompts, rl_samples: stage 6: rollouts, prompts a rollout, samples a prompt.
        rl_latent, rl_token: its optimisers.
        score_prompts: prompts of each test split that are scored.
        score_samples, near_greedy_samples: samples of each at temperature 1 and at 0.1.
        gain_prompts, gain_samples: fixed training prompts on which RL's gain is measured.
    """

    seed: int = 0
    preset: str = "tiny"
    tasks: tuple[str, ...] = ("role_play", "help")
    algorithms: dict[str, str] = dataclasses.field(default_factory=lambda: dict(DEFAULT_ALGORITHMS))
    method: Method = dataclasses.field(default_factory=Method)
    sizes: SceneSizes = dataclasses.field(default_factory=demo_sizes)
    inverse: StageSettings = StageSettings(260, 8, OptimiserConfig(2e-3, "cosine", 0.05, 0.1))
    projector: StageSettings = StageSettings(60, 8, OptimiserConfig(2e-3, "linear", 0.1))
    joint: StageSettings = StageSettings(180, 8, OptimiserConfig(1.5e-3, "cosine", 0.1, 0.1))
    cloning: StageSettings = StageSettings(130, 8, OptimiserConfig(2e-3, "cosine", 0.05))
    sft: StageSettings = StageSettings(70, 8, OptimiserConfig(5e-4, "cosine", 0.03))
    rl_steps: int = 12
    rl_prompts: int = 16
    rl_samples: int = 8
    rl_latent: OptimiserConfig = OptimiserConfig(6e-4)
    rl_token: OptimiserConfig = OptimiserConfig(5e-4)
    score_prompts: int = 32
    score_samples: int = 2
    near_greedy_samples: int = 2
    gain_prompts: int = 256
    gain_samples: int = 2

    def __post_init__(self):
        for task in self.tasks:
            if task not in TASK_SPLITS:
                raise ValueError(f"Unknown task {task!r}: expected some of {sorted(TASK_SPLITS)}.")
            if self.algorithms.get(task) not in ALGORITHMS:
                raise ValueError(
                    f"Task {task!r} has algorithm {self.algorithms.get(task)!r}: expected one of {sorted(ALGORITHMS)}."
                )
