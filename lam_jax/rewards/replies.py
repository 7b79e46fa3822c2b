"""Reading a judge's reply, strictly: a score that is not written out in the form asked for is a failed call.

A score is never guessed. The pair of a dimension stands in brackets after a `[Scores]` tag, and the tag belongs to the
last heading before it; dimensions are found by their names. Stored reviews are read by other rules, `reviews.py`.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Literal

from lam_jax.rewards.verdict import Verdict

Pair = tuple[float, float]
Match = Literal["name", "order"]
HEADING = 200  # characters of a line in which a heading is looked for

# Full-width forms of ASCII, and brackets and commas of Chinese and Japanese text.
_WIDE = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_WIDE |= {0x3010: ord("["), 0x3011: ord("]"), 0x3001: ord(","), 0x3000: ord(" "), 0xA0: ord(" "), 0x202F: ord(" ")}
_UNSEEN = dict.fromkeys((0x200B, 0x2060, 0xFEFF))  # without width, a byte order mark among them

# Names of tags that hold a thought: with what models put before and after, <longcat_think>, <seed:think>, <cot_budget>.
_NAME = r"(?:[a-z0-9]+[_:-]+){0,4}(?:ant|inner|deep|self)?(?:%s)(?:[_:-]+[a-z0-9]+){0,4}"
_THINK = _NAME % (
    "think(?:ing)?|thoughts?|monologue|reason(?:ing)?|reflect(?:ion)?|scratch_?pad|deliberation|cot|chain_of_thought"
)
_TAG_OPEN, _TAG_CLOSE = r"<\s*%s(?:\s[^<>\n]*)?(?:(?<!/)>|$)", r"<\s*/\s*%s\s*>"
_OPEN = re.compile(
    _TAG_OPEN % _THINK + r"|<\|(?:(?:begin|start)_(?:of_)?)?(?:think(?:ing)?|thought)(?:_start)?\|>"
    r"|<\|inner_prefix\|>|<\|channel>\s*thought|<unused94>|\[THINK\]|◁think▷",
    re.IGNORECASE | re.MULTILINE,
)
_CLOSE = re.compile(
    _TAG_CLOSE % _THINK + r"|<\|(?:/|end_(?:of_)?)(?:think(?:ing)?|thought)\|>|<\|(?:think(?:ing)?|thought)_end\|>"
    r"|<\|inner_suffix\|>|<channel\|>|<unused95>|\[/THINK\]|\[BEGIN FINAL RESPONSE\]|◁/think▷",
    re.IGNORECASE,
)
# What in a judge's reply, though not in every text, comes before the verdict.
_DRAFTS = _NAME % "analysis|draft|rationale|plan(?:ning)?"
_DRAFT_OPEN = re.compile(
    _TAG_OPEN % _DRAFTS + r"|<details\b[^<>]*>|^\s*`{3,}\s*think(?:ing)?\b", re.IGNORECASE | re.MULTILINE
)
_DRAFT_CLOSE = re.compile(_TAG_CLOSE % _DRAFTS + r"|</details\s*>", re.IGNORECASE)
_FENCED_THOUGHT = re.compile(r"^\s*`{3,}\s*think(?:ing)?\b.*?^\s*`{3,}\s*$", re.IGNORECASE | re.MULTILINE | re.DOTALL)
_DRAFT = re.compile(
    r"^[ \t>#*_]*(?:(?:first|rough|initial|my)[ \t]+)?draft(?:[ \t]+\w+)?[ \t*_]*:?[ \t*_]*$",
    re.IGNORECASE | re.MULTILINE,
)
# Marks around the reply itself, and the commonest of HTML: of a line's end, and of bold type.
_AROUND = re.compile(
    r"</?(?:answer|response|final|output|p|br|li|ul|ol|div|h[1-6])\s*/?>|<\|(?:start|end)_response\|>"
    rf"|<\s*{_THINK}\s*/>|\[(?:BEGIN|END) FINAL RESPONSE\]",
    re.IGNORECASE,
)
_BOLD = re.compile(r"</?(?:b|strong|i|em|u|code)>", re.IGNORECASE)
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)[^<]*<\|message\|>")

_JSON = re.compile(r"\s*(?:`{3,}\w*\s*)?[\[{]\s*[\"{]")
_EMPHASIS = " \t*_`"
_TAG = re.compile(r"\[[\s*_`]*scores?[\s*_`]*(?:\]|(?=:))", re.IGNORECASE)
_BARE_TAG = re.compile(r"(?<![\w\[])scores?(?=[\s*_`]*:)", re.IGNORECASE)
_BEFORE_BRACKET = re.compile(r"[\s*_`:$]*")
_NUMBER = r"([0-9]{1,2}(?:\.[0-9]+)?)"
_SCORE = re.compile(rf"{_NUMBER}(?:\s*/\s*10|\s+out\s+of\s+10)?", re.IGNORECASE)
_LABEL = re.compile(r"(?:(?:model|assistant|answer|response|candidate)[\s_-]*)?([ab12])", re.IGNORECASE)
# What a judge says of a pair after its bracket: another scale, a doubt, a second choice, or that the order is turned.
_OF = r"(?:/|(?:points?\s+)?(?:out\s+)?of(?:\s+a\s+possible)?)"
_SCALE_AFTER = re.compile(
    rf"\s*{_OF}\s*(\d+)|[^.\n]{{0,30}}?\bscale\b[^.\n\d]{{0,20}}(?:\d+\s*(?:-|–|—|to)\s*)?(\d+)", re.IGNORECASE
)
_DOUBT_AFTER = re.compile(r"\s*(?:[%±★☆]|(?:\+/?-|or|to|and|through|-|–|—)\s*\(?\d)", re.IGNORECASE)
_MODEL = r"(?:model|assistant|answer|response|candidate)"
_TURNED_AFTER = re.compile(
    rf"[\s(\[:=,–—-]*(?:(?:for|as|of|i\.?e\.?,?|meaning)\s+)?(?:the\s+)?"
    rf"(?:{_MODEL}\s*)?(?:[b2]|reference)\b[\s,;/&]*(?:(?:and|then|vs\.?)\s+)?(?:the\s+)?(?:{_MODEL}\s*[a1]?|[a1])\b",
    re.IGNORECASE,
)
_LATER_BRACKET = re.compile(r"[(\[]([^()\[\]\n]{0,200})[)\]]")
_TWO_NUMBERS = re.compile(r"[0-9][^,;:]*[,;:][^0-9]*[0-9]")
_NUMBERING = r"(?:(?:\(?(?:\d{1,2}|[a-z]|[ivx]{1,4})[.):]|\d{1,2}\s*[-–—])\s*)?"
_LEAD = re.compile(
    rf"[\s>#*_`|•·–—+-]*{_NUMBERING}[\s*_`]*"
    rf"(?:(?:dimension|criterion|criteria|aspect|category|metric|name)\s*(?:\d{{1,2}})?[\s*_`]*[:.(–—-]?\s*)?"
    rf"{_NUMBERING}[\s*_`\[(]*",
    re.IGNORECASE,
)
# What ends a heading: its line, bold type, a colon, dash or full stop, or the tag itself.
_HEADING_END = re.compile(r"(?:\*\*|__)|[\s*_`\])]*(?:\([^()\n]*\)[\s*_`]*)?(?:$|[:|.]|[-–—]+(?:\s|$)|\[)")
_OTHER_HEADING = re.compile(
    r"[\s>*_`|•·+-]*#{1,6}\s*\S|[\s>*_`|•·#+-]*(?:\(?\d{1,2}[.)]\s*)?[\s*_`]*"
    r"(?:in\s+)?(?:the\s+)?(?:overall|totals?|final|average|averages|mean|sum|summary|summing|conclusion|combined|"
    r"aggregated?|general)\b",
    re.IGNORECASE,
)
_SHORT_TITLE = re.compile(
    r"[\s>*_`|•·+-]*(?:\(?\d{1,2}[.)]\s*)?[*_`]*([A-Z][\w'&/-]*(?:\s+[A-Z][\w'&/-]*){0,4})[\s*_`]*(?::|$)"
)
# A title directly before the tag, in any case: at the beginning of its line, or after a sentence.
_TITLE_BEFORE_TAG = re.compile(
    r"(?:^[\s>*_`|•·#+-]*(?:\(?\d{1,2}[.)]\s*)?[*_`]*|[.;!?]\s+[*_`]*)([^\W\d][\w'&/-]*(?:\s+[\w'&/-]+){0,4})[\s*_`]*:[\s*_`]*$"
)
# Titles that stand inside a dimension's paragraph.
_INNER_TITLE = re.compile(
    r"(?:model|assistant|answer|response|candidate)\s*[ab12]?|analysis|review|evaluation|comments?|assessment|reason(?:ing)?"
    r"|rationale|explanation|justification|comparison|text|note|verdict|both(?:\s+\w+){0,3}|(?:[\w'-]+\s+){0,4}(?:scores?|ratings?)"
    r"(?:\s+(?:is|are|as|would be|follows?)){0,2}",
    re.IGNORECASE,
)


class Unreadable(Exception):
    """Why a reply gives no verdict: a short word, and a sentence."""

    def __init__(self, kind: str, reason: str):
        super().__init__(reason)
        self.kind, self.reason = kind, reason


def parse_reply(
    text: str,
    dimensions: Sequence[str],
    swapped: bool = False,
    integers_only: bool = False,
    match: Match = "name",
) -> Verdict:
    """Verdict from one reply that scores all dimensions.

    Read are `[Scores]: (9, 8)` with or without bold and backticks, full-width signs, decimals, `(9/10, 8 out of 10)`
    and `(Model A: 9, Model B: 8)`; nothing else. Blocks of thought are left out first.

    Args:
        text: the judge's reply.
        dimensions: names.
        swapped: the reference was shown first, so that the pairs are (reference, answer).
        integers_only: fail on 8.5 (the released code's rule).
        match: "name": by the headings of the reply, in any order; "order": one pair a dimension in the order asked
            for, as the released code reads them; a heading that contradicts the order fails the call.

    Returns:
        A failed verdict unless each dimension has exactly one pair, every score from 1 to 10.
    """
    try:
        pairs = _pairs(plain(_verdict_of(text)), list(dimensions), match)
        for name, pair in pairs.items():
            _check(name, pair, integers_only)
    except Unreadable as why:
        return Verdict(error=f"{why.reason}: {excerpt(text)}" if text.strip() else why.reason, kind=why.kind)
    return Verdict({name: (pair[1], pair[0]) if swapped else pair for name, pair in pairs.items()})


def without_thoughts(text: str) -> str:
    """A reply without its blocks of thought, such as `<think>..</think>`.

    What stands before a closing tag without its opening one is thought too: some chat templates open the block.

    Raises:
        Unreadable: a block that does not end.
    """
    channels = list(_CHANNEL.finditer(text))
    if channels:
        if channels[-1][1].lower() != "final":
            raise Unreadable("unfinished_thinking", "The judge thought and gave no final reply")
        text = re.sub(r"<\|(?:end|return)\|>\s*$", "", text[channels[-1].end() :])
    return _without_blocks(text, _OPEN, _CLOSE)


def _verdict_of(text: str) -> str:
    """A judge's reply without thoughts, also where their marks are written as HTML or Markdown, and without drafts."""
    text = re.sub(r"\\([<>])", r"\1", text.replace("&lt;", "<").replace("&gt;", ">"))
    text = _without_blocks(_FENCED_THOUGHT.sub("\n", without_thoughts(text)), _DRAFT_OPEN, _DRAFT_CLOSE)
    if _DRAFT.search(text):
        raise Unreadable(
            "unfinished_thinking", "The judge drafts its scores; the verdict cannot be told from the draft"
        )
    return text


def _without_blocks(text: str, opens: re.Pattern[str], closes: re.Pattern[str]) -> str:
    while (first := opens.search(text)) and (end := closes.search(text, first.end())):
        text = text[: first.start()] + "\n" + text[end.end() :]
    closings = list(closes.finditer(text))
    if closings:
        text = text[closings[-1].end() :]
    if opens.search(text):
        raise Unreadable("unfinished_thinking", "The judge's thought does not end; give it more tokens")
    return text


def excerpt(text: str) -> str:
    """The end of a text, for messages."""
    joined = " ".join(text.split())
    return f"...{joined[-80:]!r}" if len(joined) > 80 else repr(joined)


def plain(text: str) -> str:
    """Without escapes of Markdown and signs of no width, and with ASCII for full-width signs."""
    text = _BOLD.sub("**", _AROUND.sub("\n", text.translate(_WIDE | _UNSEEN)))
    return re.sub(r"\\([\[\]()*_`])", r"\1", text)


def _check(name: str, pair: Pair, integers_only: bool) -> None:
    if not all(1 <= score <= 10 for score in pair):
        raise Unreadable("out_of_range", f"{name}: scores {pair}, expected 1 to 10")
    if integers_only and not all(score.is_integer() for score in pair):
        raise Unreadable("not_integer", f"{name}: scores {pair}, expected integers")


def _pairs(text: str, dimensions: list[str], match: Match) -> dict[str, Pair]:
    if not text.strip():
        raise Unreadable("empty", "The judge's reply is empty")
    if _JSON.match(text):
        raise Unreadable("unparsable", "The reply is JSON, expected paragraphs with [Scores]: (a, b)")
    found = list(_scored(text, dimensions))
    if not found:
        raise Unreadable("unparsable", f"0 score pairs in the reply, expected {len(dimensions)}: no [Scores] tag")
    if match == "order":
        return _in_order(found, dimensions)
    # Nothing that it could be mistaken for.
    if len(dimensions) == len(found) == 1 and found[0][0] is None and not _names_any(text, dimensions):
        found = [(dimensions[0], found[0][1])]
    pairs: dict[str, Pair] = {}
    for name, outcome in found:
        if not name:
            continue
        if isinstance(outcome, Unreadable):
            raise Unreadable(outcome.kind, f"{name}: {outcome.reason}")
        if pairs.setdefault(name, outcome) != outcome:
            raise Unreadable("doubled_dimension", f"{name}: scored {pairs[name]} and {outcome}, expected once")
    if missing := [name for name in dimensions if name not in pairs]:
        raise Unreadable(
            "missing_dimension",
            f"{len(pairs)} score pairs under the names asked for, expected {len(dimensions)}; without: "
            f"{', '.join(missing)}",
        )
    return {name: pairs[name] for name in dimensions}


def _in_order(found: list[tuple[str | None, "Pair | Unreadable"]], dimensions: list[str]) -> dict[str, Pair]:
    if len(found) != len(dimensions):
        few = len(found) < len(dimensions)
        raise Unreadable(
            "missing_dimension" if few else "unparsable",
            f"{len(found)} score pairs in the reply, expected {len(dimensions)}",
        )
    pairs: dict[str, Pair] = {}
    for expected, (name, outcome) in zip(dimensions, found, strict=True):
        if isinstance(outcome, Unreadable):
            raise Unreadable(outcome.kind, f"{expected}: {outcome.reason}")
        if name and name != expected:
            raise Unreadable("unparsable", f"Found the scores of {name!r} in the place of {expected!r}")
        pairs[expected] = outcome
    return pairs


def _scored(text: str, dimensions: list[str]) -> Iterator[tuple[str | None, "Pair | Unreadable"]]:
    """Of each tag the dimension that it stands under, "" for another heading and None for none, and its pair."""
    tags = list(_TAG.finditer(text)) or list(_BARE_TAG.finditer(text))
    patterns = [(name, _name_pattern(name)) for name in sorted(dimensions, key=len, reverse=True)]
    heading: str | None = None
    start = 0
    for number, tag in enumerate(tags):
        if tag.start() < start:  # inside the bracket of the tag before
            continue
        heading = _heading(text[start : tag.start()], patterns, heading)
        end = tags[number + 1].start() if number + 1 < len(tags) else len(text)
        outcome, start = _pair_after(text, tag, end)
        later = _LATER_BRACKET.findall(_rest(text[start:end], patterns))
        if not isinstance(outcome, Unreadable) and any(map(_TWO_NUMBERS.search, later)):
            outcome = Unreadable("unparsable", "more than one pair after a [Scores] tag, expected one")
        yield heading, outcome


def _names_any(text: str, dimensions: list[str]) -> bool:
    """Whether a line begins with a dimension's name."""
    patterns = [(name, _name_pattern(name)) for name in dimensions]
    return any(_named(line, patterns) for line in text.splitlines())


def _name_pattern(name: str) -> re.Pattern[str]:
    words = [re.escape(word) for word in re.split(r"[\s\-_]+", name.strip()) if word]
    return re.compile(r"[\s*_`‐‑‒–—-]*".join(words) + r"(?![^\W_])", re.IGNORECASE)


def _heading(piece: str, patterns: Sequence[tuple[str, re.Pattern[str]]], before: str | None) -> str | None:
    """The heading that holds at the end of a piece of text, "" for no dimension's; `before`: at its beginning."""
    for line in piece.splitlines():
        found = _named(line, patterns)
        if found is not None:
            before = found
        elif _is_other_heading(line):
            before = ""
    title = _TITLE_BEFORE_TAG.search(piece.rpartition("\n")[2][-HEADING:])
    if title and not _INNER_TITLE.fullmatch(title[1].strip()) and _named(title[1], patterns) != before:
        return ""
    return before


def _named(line: str, patterns: Sequence[tuple[str, re.Pattern[str]]]) -> str | None:
    """The dimension that a line begins with, as a heading."""
    line = line.strip()[:HEADING]
    lead = _LEAD.match(line)
    starts = {0, lead.end()} if lead else {0}
    for start in sorted(starts, reverse=True):
        for name, pattern in patterns:
            hit = pattern.match(line, start)
            if hit and _HEADING_END.match(line, hit.end()):
                return name
    return None


def _is_other_heading(line: str) -> bool:
    line = line.strip()[:HEADING]
    if _OTHER_HEADING.match(line):
        return True
    title = _SHORT_TITLE.match(line)
    return title is not None and not _INNER_TITLE.fullmatch(title[1].strip())


def _rest(after: str, patterns: Sequence[tuple[str, re.Pattern[str]]]) -> str:
    """What follows a pair up to the next heading."""
    lines: list[str] = []
    for number, line in enumerate(after.splitlines()):
        if _named(line, patterns) or (number and _OTHER_HEADING.match(line.strip()[:HEADING])):
            break
        lines.append(line)
    return "\n".join(lines)


def _pair_after(text: str, tag: re.Match[str], end: int) -> tuple["Pair | Unreadable", int]:
    """The pair in the bracket after a tag, and where the bracket ends."""
    inside = not tag[0].endswith("]") and tag[0].startswith("[")  # [Scores: (9, 8)]
    lead = _BEFORE_BRACKET.match(text, tag.end())
    start = lead.end() if lead else tag.end()
    opening = text[start : start + 1]
    if opening and opening in "([" and start < end:
        closing = ")" if opening == "(" else "]"
        first = start + 1
    elif inside:
        closing, first = "]", start
    else:
        return Unreadable("unparsable", "no bracket after the [Scores] tag, expected (a, b)"), tag.end()
    stop = text.find(closing, first, end)
    if stop < 0 or "\n" in text[first:stop].strip():
        return Unreadable("unparsable", f"the bracket of the scores is not closed: {excerpt(text[start:end])}"), start
    pair = read_pair(text[first:stop])
    said = text[stop + 1 : end].partition("\n")[0].lstrip("*_`$|)] \t\"'")[:HEADING]
    if not isinstance(pair, Unreadable) and (wrong := _against(said)):
        pair = Unreadable("unparsable", f"found {wrong} after the bracket: {said[:60]!r}, expected (a, b) alone")
    return pair, stop + 1


def _against(said: str) -> str | None:
    """What in the words after a bracket says that its two numbers are not the scores of A and B from 1 to 10."""
    scale = _SCALE_AFTER.match(said)
    if scale and (scale[1] or scale[2]) != "10":
        return "another scale"
    if _DOUBT_AFTER.match(said):
        return "more than a pair"
    return "the models in another order" if _TURNED_AFTER.match(said) else None


def read_pair(content: str) -> "Pair | Unreadable":
    """The two numbers of what stands in a bracket, or why there are none."""
    parts = content.split(",")
    why = Unreadable("unparsable", f"found ({' '.join(content.split())[:60]}), expected two plain numbers (a, b)")
    if len(parts) != 2:
        return why
    found = [_labelled(part) for part in parts]
    if None in found:
        return why
    (first, a), (second, b) = [entry for entry in found if entry is not None]
    if (first, second) in ((None, None), ("a", "b"), ("1", "2")):
        return a, b
    if (first, second) in (("b", "a"), ("2", "1")):
        return b, a
    return why


def _labelled(part: str) -> tuple[str | None, float] | None:
    """Label and score of "Model A: 9" or "9"; None for anything else."""
    label, colon, score = part.rpartition(":")
    number = _SCORE.fullmatch(score.strip(_EMPHASIS))
    if number is None:
        return None
    if not colon:
        return None, float(number[1])
    named = _LABEL.fullmatch(label.strip(_EMPHASIS + "\n"))
    return (named[1].lower(), float(number[1])) if named else None
