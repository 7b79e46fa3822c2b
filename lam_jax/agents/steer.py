"""Steering measured: a property of answers set by a bias on codes, against a bias on tokens and against a request.

Codes and tokens are found from the same rows: log-odds of what comes in answers with the property against others.
"""

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

import lam_jax
from lam_jax.agents.atlas import require_place, write_whole
from lam_jax.agents.atlas_answers import Texts, spread
from lam_jax.agents.atlas_rows import ChatCollator, before_rl, chat_lengths, latent_agent, rows_of, speaker_of
from lam_jax.agents.load import find, load_folder
from lam_jax.agents.loaded import LoadedAgent
from lam_jax.agents.run_folder import RunAgent, open_run_agent
from lam_jax.agents.settings import AgentError
from lam_jax.data.chat import ChatEncoder
from lam_jax.data.layouts import RowParser
from lam_jax.data.schemas import Example, Message
from lam_jax.evaluation.code_contexts import runs
from lam_jax.evaluation.code_reading import answer_positions, read_codes
from lam_jax.evaluation.generate import Answer, generate
from lam_jax.evaluation.steering import Property, Swept, by_prompt, curve, log_odds, property_of, steering_table
from lam_jax.hosts.start import start_process
from lam_jax.latent.agent import Agent
from lam_jax.losses.next_token import token_logps
from lam_jax.models.inputs import Batch
from lam_jax.nn.layout import Layout
from lam_jax.parallel import TRAIN, place, use
from lam_jax.parallel.choose_layout import statics
from lam_jax.parallel.multihost import is_first, to_host
from lam_jax.rollout.actions import TokenActions
from lam_jax.rollout.engine import RolloutConfig
from lam_jax.rollout.sampling import SamplingConfig
from lam_jax.rollout.steering import SteeredActions
from lam_jax.runs.progress import Progress

Record = dict[str, Any]
LEAST = 8  # answers of the contrast sets with the property, and without


@dataclasses.dataclass(frozen=True)
class SteerSettings:
    """How steering is measured.

    Attributes:
        rows: of each test or file; every second one is of the contrast sets, the others are prompts.
        prompts: answered at most.
        strengths: multiples of the log-odds that are added to the logits; 0 is added where it is missing.
        samples: answers to a prompt at each strength.
        temperature: of the draws of codes.
        token_temperatures: of the draws of tokens, each a method of its own: at 1 tokens carry the noise of the data,
            which codes do not.
        loss: nats a token of fluency that steering may cost.
        batch: rows at a time; None: the agent's own.
        seed: of draws.
    """

    rows: int = 96
    prompts: int = 48
    strengths: tuple[float, ...] = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
    samples: int = 2
    temperature: float = 1.0
    token_temperatures: tuple[float, ...] = (1.0, 0.3)
    loss: float = 0.2
    batch: int | None = None
    seed: int = 0

    def __post_init__(self):
        for name in ("rows", "prompts", "samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"SteerSettings.{name} is {getattr(self, name)}, expected at least 1.")
        if not self.strengths or any(not 0 <= s < float("inf") for s in self.strengths):
            raise ValueError(f"SteerSettings.strengths is {self.strengths}, expected numbers that are not negative.")
        if any(not 0 <= value < float("inf") for value in (self.temperature, self.loss, *self.token_temperatures)):
            raise ValueError("SteerSettings.temperature, token_temperatures and loss: expected 0 or more.")
        object.__setattr__(self, "strengths", tuple(sorted({0.0, *map(float, self.strengths)})))


def steer_agent(
    path: str | Path,
    properties: Sequence[str] = ("long", "question"),
    *,
    rows: str | Path | None = None,
    out: str | Path | None = None,
    task: str | None = None,
    image_root: Path | None = None,
    parser: RowParser | None = None,
    settings: SteerSettings | None = None,
    progress: Progress | None = None,
) -> Record:
    """Measures how well properties of answers can be set by biasing codes, tokens, or by asking.

    The tokens are biased in the token space of the same run after its SFT where it has one, else in the latent agent's
    own backbone; the backbone of the same agent judges fluency.

    Args:
        path: a run, or an exported or converted agent in the latent space.
        properties: as `property_of` reads them; "registers" stands for the register of each speaker.
        rows: file of rows with answers; default: the tests of the run's task.
        out: JSON file for the result.
        task: of a run with several; default: the one that has come furthest.
        image_root, parser: of `rows`, as for `lam-jax generate`.
        settings: how it is measured.
        progress: where progress is shown.

    Returns:
        `{"agent", "judge", "settings", "properties": [{"name", "having", "lacking", "table", "curves", "codes"}]}`.

    Raises:
        AgentError: no agent, one without codes, no rows, or too few answers with a property or without.
        BadSettingError: no such property.
    """
    start_process()
    progress = progress or Progress(enabled=is_first())
    settings = settings or SteerSettings()
    if out is not None:
        require_place(Path(out))
    folder = latent_agent(Path(path), task, find)
    found = rows_of(folder, None if rows is None else Path(rows), settings.rows, image_root, parser)
    own = [part for part in found if part.is_task and (rows is not None or part.name == folder.settings.task)]
    examples = [example for part in own for example in part.examples if example.has_reference]
    judge_folder = _token_sft(folder) or before_rl(folder) or folder
    agent = load_folder(folder)
    judge = agent if judge_folder is folder else load_folder(judge_folder)
    contrast, prompts = examples[::2], spread(examples[1::2], settings.prompts)
    if len(contrast) < 2 * LEAST or not prompts:
        raise AgentError(f"{path}: found {len(examples)} rows with answers, expected at least {4 * LEAST}.")
    measure = _Measure(agent, judge, chat_lengths(folder), settings, progress)
    measure.read(contrast)
    texts, speakers = [e.reference for e in contrast], [speaker_of(e) for e in contrast]
    names = [name for spec in properties for name in (_registers(speakers) if spec == "registers" else [spec])]
    result: Record = {
        "format": "lam_jax steering",
        "version": 1,
        "lam_jax": lam_jax.__version__,
        "agent": {"name": folder.path.resolve().name, "task": agent.task, "phase": agent.phase},
        "judge": {"space": judge.space, "phase": judge.phase},
        "settings": dataclasses.asdict(settings),
        "contrast_rows": len(contrast),
        "prompts": len(prompts),
        "properties": [measure.property(property_of(name, texts, speakers), prompts) for name in names],
    }
    if out is not None and is_first():
        write_whole(Path(out), json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return result


def _registers(speakers: Sequence[str | None]) -> list[str]:
    """The properties of the speakers with enough answers, by name."""
    named = [s for s in speakers if s is not None]
    return [f"register:{name}" for name in sorted(set(named)) if LEAST <= named.count(name) <= len(speakers) - LEAST]


def _token_sft(folder: Any) -> RunAgent | None:
    """The token agent of the same run and task after SFT, where there is one."""
    if not isinstance(folder, RunAgent) or "token" not in folder.recipe.spaces:
        return None
    try:
        token = open_run_agent(folder.path, folder.task.name, "token")
    except AgentError:
        return None
    token = before_rl(token) or token
    return token if token.phase.startswith("sft") else None


@functools.partial(jax.jit, static_argnames=("mesh", "layout"))
def _log_probabilities(agent: Agent, batch: Batch, mesh: Mesh | None, layout: Layout) -> Float[Array, " B"]:
    """Mean log-probability of the tokens of each row's last answer under the backbone."""
    with use(mesh, TRAIN, layout):
        keep = _last_answer(answer_positions(batch)).astype(jnp.float32)
        targets = jnp.concatenate([batch.tokens[:, 1:], batch.tokens[:, -1:]], axis=1)
        logps, _ = token_logps(agent.backbone.states(batch, frozen=True), agent.table, targets)
        return jnp.sum(logps * keep, axis=1) / jnp.maximum(jnp.sum(keep, axis=1), 1.0)


def _last_answer(keep: Bool[Array, "B L"]) -> Bool[Array, "B L"]:
    """Of the answers of a chat the last: what no gap separates from the last answer position."""
    place = jnp.arange(keep.shape[1])[None]
    last = jnp.max(jnp.where(keep, place, -1), axis=1, keepdims=True)
    gap = jnp.max(jnp.where(~keep & (place < last), place, -1), axis=1, keepdims=True)
    return keep & (place > gap)


class _Measure:
    def __init__(
        self,
        agent: LoadedAgent,
        judge: LoadedAgent,
        lengths: tuple[int, ...],
        settings: SteerSettings,
        progress: Progress,
    ):
        self.agent, self.judge, self.settings, self.progress = agent, judge, settings, progress
        self.batch = settings.batch or agent.settings.batch
        self.texts = Texts(agent.tokenizer)
        self.chats, self.judged = (
            ChatCollator(ChatEncoder(one.tokenizer, one.agent.backbone.config), one.settings, lengths)
            for one in (agent, judge)
        )

    def read(self, contrast: Sequence[Example]) -> None:
        """The codes of the contrast sets."""
        reading = self.agent.settings.method.acting
        reads = read_codes(self.agent.agent, contrast, self.chats, reading, self.batch)
        by_row = {id(row.example): row for row in reads.rows}
        self.contrast = [by_row[id(example)] for example in contrast if id(example) in by_row]

    def property(self, wanted: Property, prompts: Sequence[Example]) -> Record:
        """The result of one property.

        Raises:
            AgentError: too few answers with it or without.
        """
        sides = [[r for r in self.contrast if wanted.holds(r.example.reference) == side] for side in (True, False)]
        if min(map(len, sides)) < LEAST:
            raise AgentError(
                f"Property {wanted.name!r}: found {len(sides[0])} answers with it and {len(sides[1])} without, "
                f"expected at least {LEAST} of each. Name another property or more rows."
            )
        codes = self.agent.agent.latent.config.codes
        having, lacking = ([runs(row, row.inferred)[-1] for row in side] for side in sides)
        of_codes = log_odds(having, lacking, codes)
        vocabulary = self.judge.agent.backbone.config.text.vocab_size
        having, lacking = ([runs(row, row.tokens[row.places])[-1] for row in side] for side in sides)
        of_tokens = log_odds(having, lacking, vocabulary)
        strengths = self.settings.strengths
        swept = [
            self._swept("codes", wanted, self.agent, of_codes, strengths, prompts),
            *(
                self._swept("tokens", wanted, self.judge, of_tokens, strengths, prompts, temperature)
                for temperature in self.settings.token_temperatures
            ),
            self._swept("prompt", wanted, self.agent, of_codes, (0.0,), prompts),
        ]
        best = np.argsort(-np.abs(of_codes), kind="stable")[:8]
        top = np.argsort(-of_tokens, kind="stable")[:8]
        return {
            "name": wanted.name,
            "having": len(sides[0]),
            "lacking": len(sides[1]),
            "instruction": wanted.instruction,
            "codes": [{"code": int(k), "log_odds": float(of_codes[k])} for k in best],
            "tokens": [{"text": self.texts.piece(int(v)), "log_odds": float(of_tokens[v])} for v in top],
            "table": steering_table(swept, self.settings.loss, seed=self.settings.seed),
            "curves": {one.method: curve(one) for one in swept},
        }

    def _swept(
        self,
        method: str,
        wanted: Property,
        owner: LoadedAgent,
        odds: np.ndarray,
        strengths: Sequence[float],
        prompts: Sequence[Example],
        temperature: float | None = None,
    ) -> Swept:
        samples, settings = self.settings.samples, self.settings
        temperature = settings.temperature if temperature is None else temperature
        bias = np.repeat(np.outer(strengths, odds), samples, axis=0)
        space = TokenActions(owner.agent.backbone) if method == "tokens" else owner.actions
        asked = [_asked(example, wanted) for example in prompts] if method == "prompt" else prompts
        biased = SteeredActions(space, jnp.asarray(bias, jnp.float32))
        sampling = SamplingConfig(temperature=temperature)
        config = RolloutConfig(samples=len(bias), length=owner.settings.answer_length, sampling=sampling)
        key = jax.random.key(settings.seed)
        batch = min(self.batch, len(prompts))
        answered = generate(biased, asked, owner.prompts, owner.tokenizer, config, key, batch)
        has = [[wanted.holds(answer.text) for answer in item.answers] for item in answered]
        # Of the question as it was: a request in it would make what it asks for likely.
        fluency = self._fluency([(example, item.answers) for example, item in zip(prompts, answered, strict=True)])
        name = f"tokens, T {temperature:g}" if method == "tokens" else method
        self.progress.say(f"{wanted.name} by {name}")
        return Swept(name, tuple(strengths), by_prompt(has, len(strengths)), by_prompt(fluency, len(strengths)))

    def _fluency(self, answered: Sequence[tuple[Example, Sequence[Answer]]]) -> list[list[float]]:
        """Mean log-probability of each answer's tokens, nats."""
        flat = [_with_answer(example, answer.text) for example, answers in answered for answer in answers]
        static, size = statics(self.judge.agent), 4 * self.batch
        values: list[float] = []
        for start in range(0, len(flat), size):
            part = flat[start : start + size]
            batch = place(self.judged(part, size).batch, static["mesh"], TRAIN)
            values += np.asarray(to_host(_log_probabilities(self.judge.agent, batch, **static)))[: len(part)].tolist()
        count = len(answered[0][1])
        return [values[i : i + count] for i in range(0, len(values), count)]


def _with_answer(example: Example, text: str) -> Example:
    """The row's question with another answer; one without text counts as a full stop."""
    message = Message(role="assistant", content=text if text.strip() else ".")
    return dataclasses.replace(example, messages=(*example.prompt, message))


def _asked(example: Example, wanted: Property) -> Example:
    """The row with the request at the end of its question."""
    last = example.prompt[-1]
    asked = Message(role=last["role"], content=f"{last['content']} {wanted.instruction}")
    return dataclasses.replace(example, messages=(*example.prompt[:-1], asked))
