"""The report of `lam-jax data check` as lines of text, 80 columns wide where names allow."""

import textwrap
from collections.abc import Iterator

from lam_jax.data.check import CheckReport, SourceReport

WIDTH, SHOWN = 80, 5  # columns; bad rows of a source whose messages are shown


def report_lines(report: CheckReport, most: float) -> Iterator[str]:
    """Lines for people; `most`: the share of bad rows that is allowed."""
    for source in report.sources:
        yield from _source_lines(source)
        yield ""
    if report.read:
        verdict = f"{_count(len(report.bad))} of {_count(report.read)} rows are bad ({_share(report.share)})"
        yield f"{verdict}; {_share(most)} may be."
    if any(source.errors for source in report.sources):
        yield "Not everything could be read, see above."
    if report.bad:
        yield "--bad-out FILE lists all of them; lam-jax train --bad-rows skip leaves them out."


def _source_lines(source: SourceReport) -> Iterator[str]:
    yield source.name
    dropped = source.read - source.kept
    yield f"  rows       {_count(source.read)} read, {_count(source.kept)} kept, {_count(dropped)} dropped"
    for reason, count in source.reasons.items():
        yield from _wrapped(f"{count:>10,}  {reason}", 12)
    if source.examples > source.read:  # dialogues
        yield f"  examples   {_count(source.examples)}"
    splits = ", ".join(f"{name} {_count(rows)}" for name, rows in source.splits.items())
    yield from _wrapped(f"  splits     {splits or 'none'}", 13)
    bad = f": {_count(source.missing)} missing, {_count(source.broken)} broken" if source.pictures else ""
    yield f"  pictures   {_count(source.pictures)}{bad}"
    yield f"  ids        {_count(source.duplicates) if source.duplicates else 'no'} duplicates"
    if source.lengths:
        yield f"  {'tokens':18}{'rows':>8}{'median':>8}{'longest':>9}{'bucket':>8}{'cut':>8}{'share':>8}{'by':>8}"
    for each in source.lengths:
        numbers = f"{each.rows:>8,}{each.median:>8,.0f}{each.longest:>9,}{each.bucket:>8,}{each.cut:>8,}"
        by = f"{each.cut_median:,.0f}" if each.cut else "-"
        yield f"    {f'{each.split} {each.kind}':16}{numbers}{_share(each.share):>8}{by:>8}"
    if any(each.cut for each in source.lengths):
        yield "    (by: median of the tokens that a cut row loses)"
    for row in source.bad[:SHOWN]:
        yield from _wrapped(f"  bad: {row.message}", 7)
    if len(source.bad) > SHOWN:
        yield f"  .. and {_count(len(source.bad) - SHOWN)} more"
    for error in source.errors:
        yield from _wrapped(f"  cannot be read: {error}", 4)


def _count(number: int) -> str:
    return f"{number:,}"


def _share(value: float) -> str:
    percent = 100 * value
    return "0 %" if not value else f"{percent:.1f} %" if percent >= 0.1 else "<0.1 %"


def _wrapped(text: str, indent: int) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
        replace_whitespace=True,
    ) or [text]
