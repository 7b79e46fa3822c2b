"""An atlas of the codebook of a trained agent: what each code stands for, what it does, and what RL made of it.

Legend: K codes.
"""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import lam_jax
from lam_jax.agents.atlas_answers import (
    GREEDY,
    Shown,
    Texts,
    answer_figures,
    changed_answers,
    changed_positions,
    forced_answers,
    spread,
    vocabulary_of,
)
from lam_jax.agents.atlas_rows import (
    ChatCollator,
    RowsOf,
    before_rl,
    chat_lengths,
    latent_agent,
    rows_of,
    speaker_of,
    with_answers,
)
from lam_jax.agents.load import find, load_folder
from lam_jax.agents.loaded import LoadedAgent
from lam_jax.agents.settings import AgentError, AgentFolder
from lam_jax.data.chat import ChatEncoder
from lam_jax.data.layouts import RowParser
from lam_jax.data.schemas import Example
from lam_jax.evaluation.code_contexts import CLASSES, passage, passages, row_classes, runs
from lam_jax.evaluation.code_effects import code_effects, most_positions
from lam_jax.evaluation.code_reading import ReadRow, Reads, read_codes
from lam_jax.evaluation.code_signs import failure_signs
from lam_jax.evaluation.code_tables import (
    code_token_information,
    health_figures,
    lifted,
    nearest,
    transitions,
    typical_tokens,
)
from lam_jax.evaluation.generate import Answered
from lam_jax.formats.atomic import beside
from lam_jax.hosts.start import start_process
from lam_jax.parallel.multihost import is_first
from lam_jax.report.atlas import atlas_page
from lam_jax.rollout.sampling import SamplingConfig
from lam_jax.runs.progress import Progress

Record = dict[str, Any]
TOKENS, PASSAGES, NEAREST, PAIRS = 10, 4, 5, 40  # of a code; pairs of codes overall


@dataclasses.dataclass(frozen=True)
class AtlasSettings:
    """How much an atlas looks at.

    Attributes:
        rows: of each test, corpus or file.
        positions: whose next token is computed under every code.
        prompts: answered by the agent, before and after RL.
        samples: answers to each of them at `temperature`, for dullness.
        temperature: of these.
        forced: prompts that are answered under each code.
        length: most tokens of a forced answer; None: the agent's own.
        batch: rows that are read or answered at a time; None: the agent's own.
        seed: of draws.
    """

    rows: int = 64
    positions: int = 512
    prompts: int = 32
    samples: int = 4
    temperature: float = 1.0
    forced: int = 3
    length: int | None = None
    batch: int | None = None
    seed: int = 0

    def __post_init__(self):
        for name in ("rows", "positions", "prompts", "samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"AtlasSettings.{name} is {getattr(self, name)}, expected at least 1.")
        for name in ("forced", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"AtlasSettings.{name} is {getattr(self, name)}, expected 0 or more.")
        if self.batch is not None and self.batch < 1:
            raise ValueError(f"AtlasSettings.batch is {self.batch}, expected at least 1.")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"AtlasSettings.temperature is {self.temperature}, expected more than 0.")


def code_atlas(
    path: str | Path,
    *,
    out: str | Path | None = None,
    json_out: str | Path | None = None,
    rows: str | Path | None = None,
    task: str | None = None,
    image_root: Path | None = None,
    parser: RowParser | None = None,
    settings: AtlasSettings | None = None,
    progress: Progress | None = None,
) -> Record:
    """Looks at the codes of an agent and writes what it finds as a page and as JSON.

    Args:
        path: a run, or an exported or converted agent in the latent space.
        out: HTML page to write, complete or not at all; it needs no other file and no network.
        json_out: file for the same numbers.
        rows: file of rows; default: the run's own tests and held-out pre-training rows.
        task: of a run with several; default: the one that has come furthest.
        image_root, parser: of `rows`, as for `lam-jax generate`.
        settings: how much is looked at.
        progress: where progress is shown.

    Returns:
        The numbers, JSON values: `docs/codes.md` names the keys.

    Raises:
        AgentError: no agent, one without codes, or no rows.
        DataError: rows that cannot be used.
    """
    start_process()
    progress = progress or Progress(enabled=is_first())
    settings = settings or AtlasSettings()
    for target in filter(None, (out, json_out)):
        require_place(Path(target))
    folder = latent_agent(Path(path), task, find)
    found = rows_of(folder, None if rows is None else Path(rows), settings.rows, image_root, parser)
    atlas, shown = _Maker(folder, found, settings, progress).make()
    if is_first():
        if json_out is not None:
            write_whole(Path(json_out), json.dumps(atlas, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        if out is not None:
            write_whole(Path(out), atlas_page(atlas, [example.images[0] for example in shown]))
    return atlas


def require_place(target: Path) -> None:
    """Before minutes of work: that the file can be written."""
    if target.is_dir():
        raise AgentError(f"{target} is a folder, expected a file to write.")
    target.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(target.parent, os.W_OK):
        raise AgentError(f"{target.parent} cannot be written to: name a file elsewhere.")


def write_whole(target: Path, text: str) -> None:
    """Writes a file beside its target, then puts it in its place."""
    partial = beside(target, f"partial-{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


class _Maker:
    def __init__(self, folder: AgentFolder, rows: Sequence[RowsOf], settings: AtlasSettings, progress: Progress):
        self.folder, self.rows, self.settings, self.progress = folder, rows, settings, progress
        self.batch = settings.batch or folder.settings.batch
        self.shown = Shown()

    def make(self) -> tuple[Record, list[Example]]:
        """The atlas, and the rows whose first pictures it shows."""
        earlier = before_rl(self.folder)
        agent = load_folder(self.folder)
        self.texts = Texts(agent.tokenizer)
        self.rows, own = with_answers(agent, self.rows, self.batch)
        self.examples = [example for part in self.rows for example in part.examples]
        self.part_of = [part for part in self.rows for _ in part.examples]
        if not self.examples:
            raise AgentError(f"{self.folder.path}: found no row with an answer to look at, expected one or more.")
        before = None
        if earlier is not None:
            old = load_folder(earlier)
            before = (earlier.phase, self._read(old, "read (SFT)", 0), self._answers(old, GREEDY, 1))
            del old
        self.reads = self._read(agent, "read", min(self.settings.positions, most_positions(vocabulary_of(agent))))
        if not self.reads.rows:
            raise AgentError(f"{self.folder.path}: no row's answer is within {chat_lengths(self.folder)[-1]} tokens.")
        codes = agent.agent.latent.config.codes
        inferred = np.concatenate([row.inferred for row in self.reads.rows])
        tokens = np.concatenate([row.tokens[row.places] for row in self.reads.rows])
        greedy = self._answers(agent, GREEDY, 1)
        atlas: Record = {
            "format": "lam_jax atlas",
            "version": 1,
            "lam_jax": lam_jax.__version__,
            "agent": self._agent(agent),
            "settings": dataclasses.asdict(self.settings),
            "codes": codes,
            "rows": len(self.reads.rows),
            "own_answers": own,
            "cut": self.reads.cut,
            "positions": len(inferred),
            "classes": list(CLASSES),
            "groups": self._groups(),
            "token_information": code_token_information(inferred, tokens),
            "projector": self._projector(codes),
            "cloning_accuracy": float(np.mean(inferred == np.concatenate([row.chosen for row in self.reads.rows]))),
        }
        effects = self._effects(agent)
        atlas["effect"] = {
            "positions": effects.positions[-1],
            "mean_kl": float(effects.kl.mean()),
            "distinct": effects.distinct,
            "moved": float(effects.moved.mean()),
            "without": int((effects.kl < 0.05).sum()),
        }
        counts = transitions([run for row in self.reads.rows for run in runs(row, row.inferred)], codes)
        atlas["transitions"] = {"counts": counts.tolist(), "pairs": lifted(counts, 5, PAIRS)}
        drawn = SamplingConfig(temperature=self.settings.temperature)
        atlas["drawn"] = answer_figures(self._answers(agent, drawn, self.settings.samples)) | {
            "samples": self.settings.samples,
            "temperature": self.settings.temperature,
        }
        atlas["rl"] = None if before is None else self._rl(codes, *before, greedy)
        atlas["per_code"] = self._per_code(agent, codes, inferred, tokens, effects, counts, atlas["rl"])
        chosen = spread(greedy, self.settings.forced)
        length = self.settings.length or agent.settings.answer_length
        atlas["forced"] = forced_answers(agent, chosen, codes, length, self.shown, self._bar("forced"))
        atlas["signs"] = failure_signs(atlas)
        return atlas, self.shown.examples

    def _agent(self, agent: LoadedAgent) -> Record:
        known = agent.settings.provenance
        return {
            "name": self.folder.path.resolve().name,
            "task": agent.task,
            "phase": agent.phase,
            "space": agent.space,
            "provenance": dict(known),
        }

    def _bar(self, name: str) -> Callable[[Iterable[Any]], Iterable[Any]]:
        def wrapped(items: Iterable[Any]) -> Iterable[Any]:
            items = list(items)
            with self.progress.bar(name, len(items)) as bar:
                for number, item in enumerate(items, 1):
                    yield item
                    bar.update(number)

        return wrapped

    def _read(self, agent: LoadedAgent, name: str, states: int) -> Reads:
        encoder = ChatEncoder(agent.tokenizer, agent.agent.backbone.config)
        collate = ChatCollator(encoder, agent.settings, chat_lengths(self.folder))
        reading = agent.settings.method.acting
        seed = self.settings.seed
        return read_codes(agent.agent, self.examples, collate, reading, self.batch, states, seed, self._bar(name))

    @property
    def _prompts(self) -> list[Example]:
        """Prompts that are answered: of the agent's own task first, spread over its sets."""
        own = [part for part in self.rows if part.is_task and part.name == self.folder.settings.task]
        parts = own or [part for part in self.rows if part.is_task]
        return spread([example for part in parts for example in part.examples], self.settings.prompts)

    def _answers(self, agent: LoadedAgent, sampling: SamplingConfig, samples: int) -> list[Answered]:
        options = {"sampling": sampling, "samples": samples, "seed": self.settings.seed}
        return agent.generate(self._prompts, batch=min(self.batch, max(1, len(self._prompts))), **options)

    def _groups(self) -> list[Record]:
        """Usage and health of all rows, of each task, of each speaker, with pictures and without."""
        place = {id(example): part for example, part in zip(self.examples, self.part_of)}
        members: dict[tuple[str, str], list[ReadRow]] = {("all", "all rows"): list(self.reads.rows)}
        for row in self.reads.rows:
            part = place[id(row.example)]
            members.setdefault(("input", "with a picture" if row.example.images else "text only"), []).append(row)
            members.setdefault(("task" if part.is_task else "corpus", part.name), []).append(row)
            if part.is_task and (speaker := speaker_of(row.example)) is not None:
                members.setdefault(("speaker", speaker), []).append(row)
        order = ("all", "input", "task", "corpus", "speaker")
        ranked = sorted(members.items(), key=lambda item: (order.index(item[0][0]), -len(item[1]), item[0][1]))
        return [
            {
                "kind": kind,
                "name": name,
                "rows": len(rows),
                "inverse": health_figures([row.inverse for row in rows]),
                "policy": health_figures([row.policy for row in rows]),
            }
            for (kind, name), rows in ranked
        ]

    def _projector(self, codes: int) -> Record:
        """How far text states are from image-text states after the projector, and whether they get the same codes."""
        seen = [row for row in self.reads.rows if row.blind is not None]
        if not seen:
            return {"error": None, "agreement": None, "chance": None, "positions": 0}
        one, two = (np.concatenate([getattr(row, name) for row in seen]) for name in ("inferred", "blind"))
        shares = [np.bincount(x, minlength=codes) / len(x) for x in (one, two)]
        return {
            "error": self.reads.projector_error,
            "agreement": float(np.mean(one == two)),
            "chance": float(shares[0] @ shares[1]),
            "positions": len(one),
        }

    def _effects(self, agent: LoadedAgent) -> Any:
        most = most_positions(vocabulary_of(agent))
        chosen = np.random.default_rng(self.settings.seed).permutation(len(self.reads.origins))
        chosen = np.sort(chosen[: min(most, self.settings.positions)])
        by_row = {number: row_classes(self.reads.rows[number], self.texts.piece) for number, _ in self.reads.origins}
        classes = np.array([by_row[r][p] for r, p in (self.reads.origins[int(i)] for i in chosen)])
        reading = agent.settings.method.generating
        return code_effects(
            agent.agent, self.reads.states[chosen], classes, len(CLASSES), reading, 6, self._bar("codes")
        )

    def _per_code(
        self,
        agent: LoadedAgent,
        codes: int,
        inferred: np.ndarray,
        tokens: np.ndarray,
        effects: Any,
        counts: np.ndarray,
        rl: Record | None,
    ) -> list[Record]:
        typical = typical_tokens(inferred, tokens, codes, TOKENS)
        shown = passages(self.reads.rows, codes, PASSAGES)
        near = nearest(np.asarray(jax.device_get(agent.agent.latent.codebook), np.float64), NEAREST)
        usage = np.bincount(inferred, minlength=codes)
        policy = np.array(self._all_policy(self.reads.rows))
        pairs = lifted(counts, 2, codes * codes)
        found = []
        for code in range(codes):
            after = [pair for pair in pairs if pair["first"] == code][:5]
            classes = [
                {
                    "context": name,
                    "positions": effects.positions[c],
                    "raised": [self._named(row) for row in effects.raised[code][c]],
                    "lowered": [self._named(row) for row in effects.lowered[code][c]],
                }
                for c, name in [(len(CLASSES), "all contexts"), *enumerate(CLASSES)]
            ]
            found.append(
                {
                    "code": code,
                    "count": int(usage[code]),
                    "share": float(usage[code] / len(inferred)),
                    "policy_share": float(policy[code]),
                    "sft_share": None if rl is None else rl["usage_before"][code],
                    "kl": float(effects.kl[code]),
                    "moved": float(effects.moved[code]),
                    "tokens": [self._named(row) for row in typical[code]],
                    "passages": [self._passage(row, place) for row, place in shown[code]],
                    "nearest": near[code],
                    "next": [one for one in classes if one["positions"]],
                    "followed_by": [{"code": p["second"], "count": p["count"], "lift": p["lift"]} for p in after],
                }
            )
        return found

    def _named(self, row: Record) -> Record:
        return {"text": self.texts.piece(row["token"]), **row}

    def _passage(self, row: int, place: int) -> Record:
        found = self.reads.rows[row]
        return passage(found, place, self.texts.decode) | {"picture": self.shown.number(found.example)}

    @staticmethod
    def _all_policy(rows: Sequence[ReadRow]) -> list[float]:
        return health_figures([row.policy for row in rows])["usage"]

    def _rl(
        self, codes: int, phase: str, reads: Reads, answered: Sequence[Answered], greedy: Sequence[Answered]
    ) -> Record:
        phases = {"before": phase, "after": self.folder.settings.phase}
        usage = {"usage_before": self._all_policy(reads.rows), "usage_after": self._all_policy(self.reads.rows)}
        answers = changed_answers(answered, greedy, codes, self.texts, self.shown)
        return phases | changed_positions(reads.rows, self.reads.rows) | usage | answers
