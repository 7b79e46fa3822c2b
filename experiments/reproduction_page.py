"""docs/reproduction.md, made of the results of the grids: every number on it is in a file that it names.

.venv/bin/python -m experiments.reproduction_page
"""

import dataclasses
import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from experiments.arms import RATES
from experiments.reproduction_records import (
    LEAST_GAIN,
    LEAST_LEAD,
    cost_table,
    diversity_rows,
    equal_diversity_table,
    reach_table,
    spread,
    table,
    used_rows,
)
from lam_jax.errors import LamJaxError
from lam_jax.evaluation.crossed import verdict_of
from lam_jax.grid.arms import Results, read_results
from lam_jax.grid.render import number
from lam_jax.grid.tables import BlockTables, Compared, GridTables, grid_tables

RESULTS = Path("experiments/results")
PAGE = Path("docs/reproduction.md")
NOT_RUN = "Not run yet: **undecided**."
Asked = Callable[[BlockTables, Compared], bool]


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim, and which comparisons of which grid speak to it.

    Attributes:
        title: of its section.
        text: what is claimed, and how it is asked here.
        grid: folder of the results.
        asked: picks the comparisons.
        also: what else is known, with its command.
        rows: another table in the place of the comparisons, its verdicts last.
        claimed: of the first of two against the second; None: nothing, and verdicts say whether it is better.
    """

    title: str
    text: str
    grid: str
    asked: Asked
    also: str = ""
    rows: Callable[[Results | None], list[list[str]]] | None = None
    claimed: Literal["better", "worse", "not better"] | None = "better"

    def table(self, found: GridTables | None) -> list[list[str]]:
        """Heads and rows, a verdict at the end of each; no rows where nothing was run."""
        if self.rows is not None:
            return self.rows(found.results if found else None)
        return [list(COMPARED), *_compared(found, self.asked, self.claimed)]


def _agents(*pairs: tuple[str, str]) -> Asked:
    return lambda block, found: (
        (found.what, found.labels.get("phase")) == ("agent", "rl") and ((found.first, found.second) in pairs)
    )


def _changes(*names: str) -> Asked:
    return lambda block, found: (found.what, found.labels.get("phase")) == ("change", "rl") and found.first in names


def _none(block: BlockTables, found: Compared) -> bool:
    return False


_LATENT = (("latent", "token"), ("repaired", "token"), ("hybrid", "token"))
CLAIMS = (
    Claim(
        "0. The codes are used",
        "Ours, and what the others stand on: after stage 5 the code that inverse dynamics infers raises log p of the "
        f"reference's token by {LEAST_GAIN} nat or more over the backbone, and after RL the policy's answers score "
        f"{LEAST_LEAD} or more above those of uniformly random codes, in every seed and in three at least.",
        "reproduce",
        _none,
        rows=used_rows,
    ),
    Claim(
        "1. Latent RL beats token RL",
        "The paper: by about 4 points on average, for four algorithms and two tasks, in and out of distribution. Here: "
        "each agent minus the token agent after RL, same prompts and seeds.",
        "reproduce",
        _agents(*_LATENT),
        "With 70 steps of SFT and 12 of RL (the demo's settings at commit e11da19): see [method.md](method.md), "
        "section 8; with the demo's settings of now: see the README.",
    ),
    Claim(
        "2. Rollouts are more diverse in the latent space",
        "Diversity after RL, each agent minus the token agent at the same temperature, by the same measure; supported "
        "if it is larger for each of three seeds or more, not supported if it is smaller for each. [method.md]"
        "(method.md) section 8 has curves over temperatures after 70 steps of SFT, where the latent space was less "
        "diverse at each of them.",
        "reproduce",
        _none,
        rows=diversity_rows,
    ),
    Claim(
        "3. The cycle loss matters",
        "The method without it, minus the whole one.",
        "ablations",
        _changes("no_cycle"),
        claimed="worse",
    ),
    Claim("4. The projector matters", "Likewise.", "ablations", _changes("no_projector"), claimed="worse"),
    Claim(
        "5. Text-only data matter",
        "Likewise: none, 240 and 1,200 rows that are seen again and again, against 21,600 of which 2,480 are read; and "
        "rows of dialogue alone, without the two thirds that are like the tasks.",
        "ablations",
        _changes("no_text_only", "text_only_240", "text_only_1200", "text_only_dialogue"),
        claimed="worse",
    ),
    Claim(
        "6. A small codebook is enough",
        "More do not help: 64, 128 and 256 codes against 32. (16 stand in the grid's own table.)",
        "ablations",
        _changes("codes_64", "codes_128", "codes_256"),
        claimed="not better",
    ),
    Claim(
        "7. Amount and quality of paired data (the seed's third experiment)",
        "600 and 1,800 rows instead of 6,000, a share of the rows with the picture of another row, and half of the "
        "rows with noise on the picture (64 of 255 levels), which is a mitigation too: see coverage below.",
        "ablations",
        _changes("paired_600", "paired_1800", "mispaired_20", "mispaired_50", "mispaired_100", "noisy_pictures"),
        claimed=None,
    ),
    Claim(
        "8. How the codes are trained: readouts, SFT recipes, noise, what inverse dynamics reads",
        "Ours, not the paper's: each against the agent `repaired` (readout `merged`, SFT `learn`, noise on, states).",
        "ablations",
        _changes(
            *("readout_block", "readout_delta", "sft_released", "sft_guided", "sft_joint", "gumbel_off"),
            *("gumbel_annealed", "inverse_tokens"),
        ),
        claimed=None,
    ),
    Claim(
        "9. Latent RL beats token RL on a task of few actions outside conversation (the seed's first experiment, and "
        "its first check)",
        "A picture game: lead one figure to another, moves in words, a simulated reward "
        "([environments.md](environments.md)); other sizes, more walls and new positions are out of distribution. "
        "`python -m experiments.game`, each agent minus the token agent after RL.",
        "game",
        _agents(*_LATENT),
    ),
)
REACH = "What the codes reach, and what bounds a policy over them"
REACH_TEXT = (
    "Of 16 validation prompts with 8 answers each at temperature 1: lead is the score of the policy's answers minus "
    "that of uniformly random codes; best of n is the mean over prompts of the best of 8 answers; oracle codes are "
    "those that the inverse model infers from the reference. Gain is that of log p(reference's token) under the "
    "inferred code over the backbone, after stage 5. [metrics.md](metrics.md) says how each is measured. Mean, least "
    "and largest over seeds."
)
DIVERSITY = "Scores at equal diversity"
DIVERSITY_TEXT = (
    "Each agent's scores and diversities after RL at all temperatures of its answers make a curve; the difference of "
    "two curves is a mean over the diversities that both reach. No sentence embedder is at hand, so diversity counts "
    "words."
)
COST = "Rewards in training at equal cost"
COST_TEXT = (
    "Mean training reward of the last five logged steps within a budget: what the cheapest of the agents of a cell "
    "spent in all. FLOPs are counted, seconds are of the machine that ran the cell and mean something only where it "
    "ran alone."
)
COVERAGE = "Coverage and robustness of the codes (the seed's first and third experiments)"
BETTER = {"supported": "better", "not supported": "not better", "undecided": "undecided"}
OPPOSITE = {"supported": "not supported", "not supported": "supported"}
SHORT_TEXT = (
    "A verdict counts only with several seeds. Of a claim: what all of its decided comparisons say, *mixed* where they "
    "disagree, *undecided* where none is decided."
)
WITH_AGENTS = ("tune", "reproduce", "game")  # grids whose cells are agents
TUNED = "Learning rates of RL, chosen on validation prompts"
TUNED_TEXT = (
    "Each is the best of those that were run, by the mean of the scores at temperatures 1 and 0.1 on role play, and "
    "serves personalised help too; hybrid's is the second. At 0.001 it scores .011 more, within the intervals, and its "
    "codes lose their say: the policy's lead over random codes is .05; at 0.0003 it is .17, and .12 in a second run. "
    "The first cells of the comparison had 0.001; they are kept as `hybrid_fast`. Their leads, measured on validation "
    "prompts of their seeds, were .351, .003 and .117, and made us look again; their test scores were known by then. "
    "`python -m experiments.hybrid` tried the temperature of the token under a code: 0.25 is as good as 0.5, 1 worse."
)


def page(results: Path) -> Iterator[str]:
    """The page's parts."""
    tables = {
        name: _tables(results / name) for name in ("tune", "hybrid", "hybrid_fast", "reproduce", "ablations", "game")
    }
    yield "# Reproduction at small scale"
    yield (
        "The paper's claims, asked on the built-in world with a model of 2.6 million parameters on CPU cores. Other "
        "world, model and judge: levels do not compare, only signs. `python -m experiments.tune`, `make reproduce` and "
        "`make ablations` run the grids and go on where they stopped; each cell's file in `experiments/results` has "
        "its command, seed, commit, scores of every prompt, and curves over RL steps with samples, FLOPs and seconds. "
        "`python -m experiments.reproduction_page` writes this page from them. [grid.md](grid.md) says how intervals, "
        "verdicts and the resolvable difference are computed."
    )
    yield "\n".join(f"- {line}" for line in (_state(name, found) for name, found in tables.items()))
    yield "## In short"
    yield SHORT_TEXT
    yield _short(tables)
    yield f"## {TUNED}"
    yield f"The other grids take: {', '.join(f'{agent} {rate:g}' for agent, rate in RATES.items())}. {TUNED_TEXT}"
    for name in ("tune", "hybrid"):
        yield from _means(tables[name])
    for claim in CLAIMS:
        yield f"## {claim.title}"
        yield claim.text
        heads, *rows = claim.table(tables[claim.grid])
        yield table(heads, rows) if rows else NOT_RUN
        if claim.also:
            yield claim.also
    yield f"## {REACH}"
    yield REACH_TEXT
    yield from _of_each(tables, reach_table, ("tune", "hybrid", "hybrid_fast", "reproduce", "game"))
    yield f"## {DIVERSITY}"
    yield DIVERSITY_TEXT
    yield from _of_each(tables, equal_diversity_table)
    yield f"## {COST}"
    yield COST_TEXT
    yield from _of_each(tables, cost_table)
    yield f"## {COVERAGE}"
    yield from _coverage(results / "coverage")
    yield "## Means"
    yield from _means(tables["reproduce"])


def _tables(folder: Path) -> GridTables | None:
    try:
        return grid_tables(read_results(folder))
    except LamJaxError:
        if any(folder.glob("*.json")):
            raise
        return None


def _of_each(
    tables: dict[str, GridTables | None], made: Callable[[Results | None], str], names: Sequence[str] = WITH_AGENTS
) -> Iterator[str]:
    """A table of each grid."""
    found = {name: tables[name] for name in names}
    parts = {name: made(each.results if each else None) for name, each in found.items()}
    for name, text in parts.items():
        if text:
            yield f"`{name}`:"
            yield text
    if not any(parts.values()):
        yield NOT_RUN


def _state(name: str, found: GridTables | None) -> str:
    if found is None:
        return f"`{name}`: no cell is done."
    done, missing = len(found.results.records), len(found.results.missing)
    by = f"by commit {', '.join(found.commits)} ({'; '.join(found.machines)})"
    return f"`{name}`: {done} of {done + missing} cells, {by}."


def _coverage(folder: Path) -> Iterator[str]:
    """Codes under each condition, and on both kinds of rows; means over seeds with the spread between them."""
    found: dict[str, list[dict[str, Any]]] = {}
    for file in sorted(folder.glob("*.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        found.setdefault(record["variant"], []).append(record)
    yield (
        "`python -m experiments.coverage`: after stage 4, the codes that the inverse model infers at the tokens of "
        "held-out captions and answers; files in `experiments/results/coverage`. Agreement: the share of them that are "
        "those of the row as it is (in brackets: of two independent draws from both usages). log p: of the reference's "
        "token under the inferred code, and its gain over the backbone under the same fault. Means over seeds, and the "
        "least and the largest."
    )
    if not found:
        yield NOT_RUN
        return
    rows = []
    for variant, records in found.items():
        for condition in records[0]["conditions"]:
            each = [record["conditions"][condition] for record in records]
            chance = number(statistics.fmean(one["by_chance"] for one in each))
            rows.append(
                [
                    *(variant, condition),
                    f"{spread([one['agreement'] for one in each])} ({chance})",
                    spread([one["logp"] for one in each]),
                    spread([one["logp"] - one["backbone_logp"] for one in each]),
                    spread([one["perplexity"] for one in each]),
                    str(len(each)),
                ]
            )
    heads = ("variant", "rows", "agreement (chance)", "log p", "gain over the backbone", "codes, perplexity", "seeds")
    yield table(heads, rows)
    yield (
        "Codes that held-out text-only rows use (each over a tenth of an equal share), and the share of image-text "
        "positions whose code is one of them:"
    )
    rows = []
    for variant, records in found.items():
        each = [record["text_only"] for record in records]
        values = ([one[name] for one in each] for name in ("used", "perplexity", "image_text_within", "overlap"))
        rows.append([variant, *map(spread, values), str(records[0]["codes"]), str(len(each))])
    heads = ("variant", "used by text-only rows", "perplexity", "image-text within", "overlap", "codes", "seeds")
    yield table(heads, rows)


COMPARED = (
    "task, split, temperature",
    "difference",
    "cell",
    "mean [interval]",
    "resolvable",
    "seeds x rows",
    "verdict",
)


def _compared(found: GridTables | None, asked: Asked, claimed: str | None) -> Iterator[list[str]]:
    for block in found.blocks if found else ():
        for each in (each for each in block.compared if asked(block, each)):
            rest = " ".join(value for name, value in each.labels.items() if name != "phase")
            difference = each.found
            low, high = number(difference.low, True), number(difference.high, True)
            verdict: str = difference.verdict
            if claimed == "worse" and found is not None and difference.seeds > 1:
                verdict = verdict_of(-difference.high, -difference.low, found.margin)
            verdict = {None: BETTER, "not better": OPPOSITE}.get(claimed, {}).get(verdict, verdict)
            yield [
                f"{block.task}, {block.block.split}, {block.block.temperature:g}",
                f"{each.first} - {each.second}",
                rest or "-",
                f"{number(difference.mean, True)} [{low}, {high}]",
                number(difference.resolvable),
                f"{difference.seeds} x {difference.prompts}",
                verdict,
            ]


def _short(tables: dict[str, GridTables | None]) -> str:
    """The claims and what became of them."""
    rows = []
    for claim in (claim for claim in CLAIMS if claim.claimed):
        found = [row[-1] for row in claim.table(tables[claim.grid])[1:]]
        counts = {verdict: found.count(verdict) for verdict in ("supported", "not supported", "undecided")}
        rows.append(
            [claim.title, overall(found), ", ".join(f"{n} {verdict}" for verdict, n in counts.items() if n) or "-"]
        )
    return table(("claim", "verdict", "comparisons"), rows)


def overall(verdicts: Sequence[str]) -> str:
    """Of the verdicts of several comparisons one: what all that are decided say; undecided where none is."""
    decided = set(verdicts) - {"undecided"}
    return "undecided" if not decided else decided.pop() if len(decided) == 1 else "mixed"


def _means(found: GridTables | None) -> Iterator[str]:
    rows = []
    for block in found.blocks if found else ():
        for mean in block.means:
            labels = " ".join(mean.labels.values())
            score = f"{number(mean.mean)} [{number(mean.low)}, {number(mean.high)}]"
            place = f"{block.task}, {block.block.split}, {block.block.temperature:g}"
            rows.append([place, labels, score, number(mean.diversity), f"{mean.seeds} x {mean.prompts}"])
    heads = ("task, split, temperature", "cell", "score [interval]", "diversity", "seeds x rows")
    yield table(heads, rows) if rows else NOT_RUN


@dataclasses.dataclass(frozen=True)
class Config:
    """Writes the page."""

    results: Annotated[Path, tyro.conf.arg(help="Folder with a folder of results for each grid.")] = RESULTS
    out: Path = PAGE


def main(config: Config) -> None:
    text = "\n\n".join(page(config.results)) + "\n"
    config.out.write_text(text, encoding="utf-8")
    print(f"{config.out}: {len(text.splitlines())} lines")


if __name__ == "__main__":
    main(tyro.cli(Config))
