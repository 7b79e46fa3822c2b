"""A grid's tables as text of 80 columns, as CSV and as one HTML page."""

import csv
import html
import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence

from lam_jax.evaluation.crossed import CONFIDENCE, POWER
from lam_jax.grid.arms import PHASE, SPACE
from lam_jax.grid.published import BUILT_IN, SOURCE
from lam_jax.grid.tables import BlockTables, Compared, CostRatio, GridTables, Mean

WIDTH = 80
LABEL = 25
HEADS = ("score", "low", "high", "paper", "divers.", "paper", "seeds", "rows")
SIZES = (7, 7, 7, 7, 8, 7, 6, 6)


def number(value: float | None, signed: bool = False) -> str:
    """Three digits; "-" where there is no number."""
    if value is None or value != value:
        return "-"
    return f"{value:+.3f}" if signed else f"{value:.3f}"


def label(labels: Mapping[str, str]) -> str:
    """What an arm is: when it was measured, its space, its values on the axes."""
    first = [labels[name] for name in (PHASE, SPACE) if name in labels]
    return " ".join([*first, *(value for name, value in labels.items() if name not in (PHASE, SPACE))])


def title(block: BlockTables) -> str:
    """Of a block."""
    return f"{block.task}, {block.split}, temperature {block.block.temperature:g}"


def cells(mean: Mean) -> tuple[str, ...]:
    """The numbers of a mean's row."""
    numbers = (mean.mean, mean.low, mean.high, mean.paper, mean.diversity, mean.paper_diversity)
    return *map(number, numbers), str(mean.seeds), str(mean.prompts)


def question(found: Compared) -> str:
    """Which two arms are compared."""
    rest = label(found.labels)
    return f"{found.first} - {found.second}{f' [{rest}]' if rest else ''}"


def answer(found: Compared) -> str:
    """The difference, its interval and the verdict."""
    difference = found.found
    paper = "" if found.paper is None else f", paper {number(found.paper, True)}"
    bounds = f"[{number(difference.low, True)}, {number(difference.high, True)}]"
    seeds = f"{difference.seeds} seed{'s' * (difference.seeds > 1)} x {difference.prompts} rows"
    resolvable = f"resolvable {number(difference.resolvable)}"
    return f"{number(difference.mean, True)} {bounds}{paper}; {resolvable}, {seeds}: {difference.verdict}"


def cost(found: CostRatio) -> str:
    """Of a task and arm, latent / token."""
    names = {"step_s": "whole step", "update_s": "update", "rollout_s": "rollout"}
    ratios = ", ".join(f"{names[name]} {ratio:.2f}" for name, ratio in found.ratios.items())
    return f"{found.task}, {', '.join(found.labels.values())}: {ratios} ({found.seeds} seed{'s' * (found.seeds > 1)})"


def notes(tables: GridTables) -> list[str]:
    """How the numbers are to be read, a paragraph each."""
    count = sum(len(block.compared) for block in tables.blocks)
    decided = sum(found.found.verdict == "supported" for block in tables.blocks for found in block.compared)
    out = [
        f"Scores are means over seeds and rows; low and high are the {CONFIDENCE:.0%} interval of a bootstrap that "
        "draws rows and seeds anew (rows alone where there is one seed). Diversity is 1 / similarity of a row's "
        "answers, where an embedder measured it; of word counts it is another measure than the paper's.",
        "Differences are of the same rows and seeds. Their interval reaches from the lower to the higher end of that "
        "bootstrap and of Student's t over the seeds. supported: all of it is above 0. not supported: it reaches 0 or "
        f"less and stays below {tables.margin:g}, the least difference that counts here. undecided: neither, or one "
        f"seed. resolvable: the difference that so many seeds and rows would have shown in {POWER:.0%} of repetitions.",
    ]
    if count:
        out.append(
            f"Of {count} comparisons {decided} are supported. Where nothing differs about 1 in "
            f"{2 / (1 - CONFIDENCE):.0f} is by chance."
        )
    if any(mean.paper is not None for block in tables.blocks for mean in block.means):
        stands = " role_play and help only stand for them here: another world, model and judge, so that levels do not "
        built_in = any(block.block.task in BUILT_IN for block in tables.blocks)
        out.append(f"paper: {SOURCE}.{stands + 'compare, only signs.' if built_in else ''}")
    if tables.results.records:
        out.append(f"Cells were run by commit {', '.join(tables.commits)}, on {'; '.join(tables.machines)}.")
    if tables.results.missing:
        names, count = tables.results.missing, len(tables.results.missing)
        more = f" and {count - 5} more" if count > 5 else ""
        out.append(f"Not done: {', '.join(names[:5])}{more} ({count} of {count + len(tables.results.records)} cells).")
    if tables.results.others:
        out.append(f"Left out: {tables.results.others} results of other grids or of earlier recipes in this folder.")
    return out


def text_of(tables: GridTables) -> str:
    """Plain text, no line longer than 80 columns."""
    lines = [f"Grid {tables.results.name}: {len(tables.results.records)} cells"]
    for block in tables.blocks:
        lines += ["", *_wrapped(title(block)), _row("", HEADS)]
        for mean in block.means:
            *before, last = textwrap.wrap(label(mean.labels), LABEL - 1, break_on_hyphens=False)
            lines += [*before, _row(last, cells(mean))]
        if block.compared:
            lines += ["", "Differences"]
        for found in block.compared:
            lines += [*_wrapped(question(found)), *_wrapped(answer(found), "    ")]
    if tables.costs:
        lines += ["", "Seconds latent / token (paper: whole step 1.08, update 0.86, rollout 1.13)"]
        lines += [line for found in tables.costs for line in _wrapped(cost(found))]
    for note in notes(tables):
        lines += ["", *_wrapped(note)]
    return "\n".join(lines) + "\n"


def _row(first: str, rest: Sequence[str]) -> str:
    return f"{first:<{LABEL}}{''.join(text.rjust(size) for text, size in zip(rest, SIZES))}".rstrip()


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


FIELDS = (
    *("kind", "task", "split", "temperature", "what", "first", "second", "arm", "seeds", "prompts"),
    *("value", "low", "high", "paper", "resolvable", "verdict", "diversity", "lexical", "paper_diversity"),
)


def csv_of(tables: GridTables) -> str:
    """A line for each mean and each difference, numbers in full."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, FIELDS, lineterminator="\n")
    writer.writeheader()
    for row in _csv_rows(tables):
        # A spreadsheet would run a text that begins so.
        writer.writerow({k: f"'{v}" if isinstance(v, str) and v[:1] in "=+-@" and v else v for k, v in row.items()})
    return buffer.getvalue()


def _csv_rows(tables: GridTables) -> Iterator[dict[str, str | float | int | bool | None]]:
    for block in tables.blocks:
        of = {"task": block.block.task, "split": block.block.split, "temperature": block.block.temperature}
        for mean in block.means:
            yield of | {
                **{"kind": "mean", "arm": label(mean.labels), "seeds": mean.seeds, "prompts": mean.prompts},
                **{"value": mean.mean, "low": mean.low, "high": mean.high, "paper": mean.paper},
                **{"diversity": mean.diversity, "lexical": mean.lexical, "paper_diversity": mean.paper_diversity},
            }
        for found in block.compared:
            got = found.found
            yield of | {
                **{"kind": "difference", "what": found.what, "first": found.first, "second": found.second},
                **{"arm": label(found.labels), "seeds": got.seeds, "prompts": got.prompts, "value": got.mean},
                **{"low": got.low, "high": got.high, "paper": found.paper, "resolvable": got.resolvable},
                "verdict": got.verdict,
            }


_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1d1d1f }
table { border-collapse: collapse; margin: .5rem 0 1rem; width: 100% }
th, td { padding: .2rem .5rem; border-bottom: 1px solid #ddd; text-align: right; font-variant-numeric: tabular-nums }
th:first-child, td:first-child, td.verdict, th.verdict { text-align: left }
.supported { color: #0a6b2e } .not-supported { color: #a11 } .undecided { color: #666 }
p { color: #444 }
"""


def html_of(tables: GridTables) -> str:
    """One page that loads nothing; every text is escaped."""
    name = html.escape(f"Grid {tables.results.name}")
    parts = [f"<h1>{name}</h1>", f"<p>{len(tables.results.records)} cells</p>"]
    for block in tables.blocks:
        parts.append(f"<h2>{html.escape(title(block))}</h2>")
        parts.append(_table(("", *HEADS), [(label(mean.labels), *cells(mean)) for mean in block.means]))
        if block.compared:
            parts.append("<h3>Differences</h3>" + _table(_DIFFERENCE, [_compared_row(f) for f in block.compared]))
    if tables.costs:
        parts.append("<h2>Seconds latent / token</h2><p>paper: whole step 1.08, update 0.86, rollout 1.13</p>")
        parts += [f"<p>{html.escape(cost(found))}</p>" for found in tables.costs]
    parts += [f"<p>{html.escape(note)}</p>" for note in notes(tables)]
    head = f'<meta charset="utf-8"><title>{name}</title><style>{_STYLE}</style>'
    body = "\n".join(parts)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


_DIFFERENCE = ("first - second", "difference", "low", "high", "paper", "resolvable", "seeds", "rows", "verdict")


def _compared_row(found: Compared) -> tuple[str, ...]:
    got = found.found
    numbers = [number(value, True) for value in (got.mean, got.low, got.high, found.paper)]
    return question(found), *numbers, number(got.resolvable), str(got.seeds), str(got.prompts), got.verdict


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    verdict = heads[-1] == "verdict"
    top = "".join(f"<th>{html.escape(head)}</th>" for head in heads)
    body = []
    for row in rows:
        inside = [f"<td>{html.escape(text)}</td>" for text in row]
        if verdict:
            kind = row[-1].replace(" ", "-")
            inside[-1] = f'<td class="verdict {html.escape(kind)}">{html.escape(row[-1])}</td>'
        body.append(f"<tr>{''.join(inside)}</tr>")
    return f"<table><thead><tr>{top}</tr></thead><tbody>{''.join(body)}</tbody></table>"
