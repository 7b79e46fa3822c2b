"""An agent that answers: weights, tokenizer and settings together."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from lam_jax.agents.prompts import Picture, PromptCollator, prompt_of
from lam_jax.agents.settings import AgentError, AgentSettings
from lam_jax.data.chat import ChatEncoder
from lam_jax.data.schemas import Example, Message
from lam_jax.evaluation.generate import Answered, generate_batches
from lam_jax.latent.agent import Agent
from lam_jax.rollout.actions import ActionSpace
from lam_jax.rollout.engine import RolloutConfig
from lam_jax.rollout.sampling import SamplingConfig


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class LoadedAgent:
    """An agent, ready to answer; `lam_jax.load` makes one.

    Attributes:
        path: what it was loaded from.
        settings: how it answers where a call does not say otherwise.
        agent: weights, as rollouts want them. In the token space the latent modules may be missing.
        tokenizer: of the Hugging Face kind.
    """

    path: Path
    settings: AgentSettings
    agent: Agent
    tokenizer: Any

    @property
    def space(self) -> str:
        """Its action space: "latent", "hybrid" or "token"."""
        return self.settings.space

    @property
    def task(self) -> str | None:
        """What it was trained on."""
        return self.settings.task

    @property
    def phase(self) -> str | None:
        """The last phase of its run that its weights come from, for example "rl_latent_help"."""
        return self.settings.phase

    @functools.cached_property
    def actions(self) -> ActionSpace:
        """How it acts, for the rollout engine."""
        return self.settings.action_space.actions(self.agent, self.settings.method)

    @functools.cached_property
    def prompts(self) -> PromptCollator:
        """What makes batches of examples."""
        return PromptCollator(ChatEncoder(self.tokenizer, self.agent.backbone.config), self.settings)

    def answer(
        self,
        question: str | Sequence[Message],
        image: Picture | Sequence[Picture] | None = None,
        *,
        samples: int = 1,
        sampling: SamplingConfig | None = None,
        length: int | None = None,
        seed: int | jax.Array = 0,
    ) -> Any:
        """Answers a question.

        Args:
            question: a question, or the messages of a chat, `{"role", "content"}` each, the user's last.
            image: a path, the bytes of a file, a PIL image, or several of them. They stand where the user's
                `<image>` tags stand, or first in the first user turn where there is none.
            samples: answers that are drawn.
            sampling: how actions are drawn; default: the agent's own. `SamplingConfig(temperature=0.0)` is greedy.
            length: most tokens of an answer; default: the agent's own.
            seed: of the draws, or a key of `jax.random`.

        Returns:
            The text, or a list of texts where more than one sample is drawn.

        Raises:
            DataError: messages or pictures that cannot be used.
        """
        example = prompt_of(question, image, "question")
        found = self.generate([example], samples=samples, sampling=sampling, length=length, seed=seed)
        texts = [answer.text for answer in found[0].answers]
        return texts[0] if samples == 1 else texts

    def generate(
        self,
        examples: Sequence[Example],
        *,
        samples: int = 1,
        sampling: SamplingConfig | None = None,
        length: int | None = None,
        seed: int | jax.Array = 0,
        batch: int | None = None,
    ) -> list[Answered]:
        """Answers to rows, in order: text, tokens, actions (codes in the latent space) and log-probabilities of each.

        Args:
            examples: rows; what they hold as reference answer is not shown to the agent.
            samples: answers to each.
            sampling, length, seed: as in `answer`. Draws depend on the seed and on a row's place among `examples`.
            batch: rows that are answered at a time; default: the agent's own, or all where they are fewer.

        Raises:
            DataError: pictures that cannot be used.
        """
        batch = batch or min(self.settings.batch, max(1, len(examples)))
        options = {"samples": samples, "sampling": sampling, "length": length, "seed": seed, "batch": batch}
        return [answered for part in self.batches(examples, **options) for answered in part]

    def batches(
        self,
        examples: Sequence[Example],
        *,
        samples: int = 1,
        sampling: SamplingConfig | None = None,
        length: int | None = None,
        seed: int | jax.Array = 0,
        batch: int | None = None,
        first: int = 0,
    ) -> Iterator[list[Answered]]:
        """As `generate`, batch by batch; `first` is the number that the first of `examples` has among all rows."""
        settings = self.settings
        length = settings.answer_length if length is None else length
        config = RolloutConfig(samples=samples, length=length, sampling=sampling or settings.sampling)
        key = seed if isinstance(seed, jax.Array) else jax.random.key(seed)
        batch = settings.batch if batch is None else batch
        if batch < 1:
            raise AgentError(f"batch is {batch}, expected at least 1 row.")
        return generate_batches(self.actions, examples, self.prompts, self.tokenizer, config, key, batch, first)

    def __repr__(self) -> str:
        parts = [f"space={self.space!r}", f"task={self.task!r}", f"phase={self.phase!r}"]
        return f"LoadedAgent({str(self.path)!r}, {', '.join(parts)})"
