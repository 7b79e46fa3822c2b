"""Reading a judge's reply: what is a score, what fails the call, and under which dimension a score belongs."""

import random

import pytest

from lam_jax.rewards.replies import parse_reply, without_thoughts
from lam_jax.rewards.verdict import Verdict

NAMES = ["Fluency", "Image-Text Relevance", "Tone Consistency"]
TRUE = {"Fluency": (1, 2), "Image-Text Relevance": (3, 4), "Tone Consistency": (5, 6)}
LINES = [f"{name}: text [Scores]: {pair}" for name, pair in TRUE.items()]
WHOLE = "\n".join(LINES)


def one(bracket: str) -> Verdict:
    return parse_reply(f"Fluency: both are good. [Scores]: {bracket}", ["Fluency"])


@pytest.mark.parametrize(
    "bracket",
    [
        "(9, 8)",
        "(9,8)",
        "(9.0, 8.0)",
        "( 9 , 8 )",
        "(9/10, 8/10)",
        "(9 / 10, 8 out of 10)",
        "(Model 1: 9, Model 2: 8)",
        "(Model A: 9, Model B: 8)",
        "(model a: 9/10, MODEL B: 8/10)",
        "(Model B: 8, Model A: 9)",
        "(A: 9, B: 8)",
        "(**9**, **8**)",
        "(`9`, `8`)",
        "**(9, 8)**",
        "`(9, 8)`",
        r"\(9, 8\)",
        "（９，８）",
        "(9、8)",
        "(Model A：9，Model B：8)",
        "[9, 8]",
        "\n\n(9, 8)\n",
        "(9, 8). Both are 10 times better than 5.",
        "(9, 8)/10",
        "(9, 8) out of 10",
        "(9, 8) on a scale of 1 to 10",
        "(9, 8) (Model A, Model B)",
        "(9, 8) for Model A and Model B",
        "(9, 8) - B is weaker.",
        "(**Model A:** 9, **Model B:** 8)",
    ],
)
def test_two_plain_numbers_are_read(bracket):
    assert one(bracket).scores == {"Fluency": (9, 8)}


@pytest.mark.parametrize(
    "bracket",
    [
        *("(9, 1", "(9, 8\n", "(9,", "(", "", "9, 8", "Model A: 9, Model B: 8"),  # no bracket, or not closed
        *("(Model 1 - 8, Model 2 - 9)", "(Model A 9, Model B 8)", "(Model A: 9, 8)", "(Model A: 9, Model A: 8)"),
        *("(Answer: 9, Reference: 8)", "(Model 1: 9, Model B: 8)", "(Model C: 9, Model D: 8)", "(A = 9, B = 8)"),
        *("(7-8, 6-7)", "(7–8, 6–7)", "(7 to 8, 6)", "(7/8, 6)", "(8 or 9, 7)", "(8±1, 7)", "(~8, 7)", "(8+, 7)"),
        *("(4 of 5, 5 of 5)", "(8/5, 7/5)", "(80/100, 70/100)", "(9/10, 8/100)", "(80%, 70%)", "(9 (of 10), 8)"),
        *("(8,5 ; 7)", "(8,5, 7,5)", "(9; 8)", "(9 8)", "(9 | 8)", "(9 vs 8)", "(9 and 8)", "(9:8)"),
        *("(-9, 8)", "(−9, 8)", "(+9, 8)", "(8.5., 7)", "(8., 7)", "(.5, 7)", "(1e1, 8)", "(1,000, 8)", "(1 0, 8)"),
        *("(9, 8, 7)", "(9)", "(9,)", "()", "(,)", "(nine, eight)", "(N/A, 8)", "(nan, 8)", "(inf, 8)", "(True, 8)"),
        *("(9², 8)", "(①, 8)", "(1*0, 8)", "(~~9~~ 8, 7)", "(٩, ٨)", "(9 points, 8 points)", "(IX, 8)"),
        *("(9, 8) or (8, 8)", "(9, 8), (7, 7)", "(9, 8) -> (8, 8)", "(9, 8)\nRevised: (7, 7)"),
        *("(9, 8) [Scores]: (8, 8)", "(9, 8)\nFluency: again [Scores]: (8, 8)"),
        *("(4, 5)/5", "(4, 5) / 5", "(4, 5) out of 5", "(4, 5) of a possible 5", "(4, 5) points of 20", "(4, 5)★"),
        *("(4, 5) (scale 1-5)", "(4, 5) on a scale of 5", "**(4, 5)** on a 1-5 scale: 5", "(8, 9)%", "(9, 8)±1"),
        *("(9, 8) or 8, 8", "(9, 8)-(10, 9)", "(8, 9) (Model B, Model A)", "(8, 9) for Model B and Model A"),
        *("(8, 9) [B, A]", "(8, 9) (reference, answer)", "(8, 9) for the reference and the answer"),
        *("(0, 8)", "(11, 8)", "(10.5, 8)", "(9, 0)", "(0.5, 0.5)", "(99, 98)", "(009, 8)"),
    ],
)
def test_anything_else_fails_the_call(bracket):
    verdict = one(bracket)
    assert not verdict.ok
    assert verdict.kind in ("unparsable", "out_of_range", "doubled_dimension")
    with pytest.raises(ValueError, match="a failed call has no scores"):
        _ = verdict.reward


@pytest.mark.parametrize(
    "reply",
    [
        '```json\n{"Fluency": [9, 8]}\n```',
        '{"Fluency": "[Scores]: (9, 8)"}',
        '```json\n[{"name": "Fluency", "text": "[Scores]: (9, 8)"}]\n```',
        "I am sorry, I cannot judge this.",
        "Both 9.",
        "(9, 8)",
    ],
)
def test_json_refusals_and_prose_are_no_scores(reply):
    assert parse_reply(reply, ["Fluency"]).kind == "unparsable"


@pytest.mark.parametrize(
    "reply",
    [
        WHOLE,
        "\n\n".join(reversed(LINES)),
        " ".join(LINES),
        WHOLE.replace("[Scores]", "**[Scores]**").replace("Fluency", "**fluency**"),
        WHOLE.replace("Image-Text Relevance", "image text_relevance").replace(
            "Tone Consistency:", "TONE-CONSISTENCY -"
        ),
        WHOLE.replace("Image-Text", "Image–Text").replace("[Scores]", "[Score]"),
        "\n".join(f"{i}. {line}" for i, line in enumerate(LINES, start=1)),
        "\n".join(f"- **{name}:** text [Scores]: {pair}" for name, pair in TRUE.items()),
        "\n".join(f"### {i}) {name}\n\ntext\n\n[Scores]: {pair}\n" for i, (name, pair) in enumerate(TRUE.items())),
        "\n".join(f"**{name}** text. **[Scores]: {pair}**" for name, pair in TRUE.items()),
        "\n".join(f"| {name} | text | [Scores]: {pair} |" for name, pair in TRUE.items()),
        "\n".join(
            f"Dimension {i}: {name}\nAnalysis: text\n[Scores]: {pair}" for i, (name, pair) in enumerate(TRUE.items())
        ),
        "\n".join(f"{name} [Scores]: {pair}" for name, pair in TRUE.items()),
        "\n".join(f"{name} (out of 10): text [Scores]: {pair}" for name, pair in TRUE.items()),
        "1. Fluency\n2. Image-Text Relevance\n3. Tone Consistency\n\n" + WHOLE,
        WHOLE.replace("text", "better fluency and tone consistency: fine (3, 9)"),
        WHOLE + "\nOverall: good [Scores]: (10, 10)",
        WHOLE + "\n**Average** [Scores]: (3, 4)",
        WHOLE + "\n\n### Summary\nModel B is better. [Scores]: (10, 10)",
        WHOLE + "\n" + LINES[1],  # twice the same
        "```\n" + WHOLE + "\n```",
        "<think>Fluency: [Scores]: (3, 9)</think>" + WHOLE,
        "<thinking>\nFluency: [Scores]: (3, 9)\n</thinking>\n" + WHOLE,
        "<|begin_of_thought|>Fluency: [Scores]: (3, 9)<|end_of_thought|>" + WHOLE,
        "[THINK]Fluency: [Scores]: (3, 9)[/THINK]" + WHOLE,
        "Fluency: [Scores]: (3, 9)\n</think>\n" + WHOLE,  # the template opened the block
        "\ufeff" + WHOLE,
        "<|START_THINKING|>Fluency: [Scores]: (3, 9)<|END_THINKING|><|START_RESPONSE|>" + WHOLE + "<|END_RESPONSE|>",
        "<|inner_prefix|>Fluency: [Scores]: (3, 9)<|inner_suffix|>" + WHOLE,
        "<|channel>thought\nFluency: [Scores]: (3, 9)<channel|>" + WHOLE,
        "<thought_process>Fluency: [Scores]: (3, 9)</thought_process><answer>" + WHOLE + "</answer>",
        "Fluency: [Scores]: (3, 9)\n[BEGIN FINAL RESPONSE]\n" + WHOLE,
        "\n".join(f"<h3>{name}</h3>text<br>[Scores]: <b>{pair}</b>" for name, pair in TRUE.items()),
        *(
            f"<{tag}>\nFluency: draft [Scores]: (3, 9)\n</{tag}>\n{WHOLE}"
            for tag in ("analysis", "longcat_think", "deep_think", "DeepThinking", "cot", "draft", "plan", "seed:think")
        ),
        "<unused94>thought\nFluency: [Scores]: (3, 9)<unused95>" + WHOLE,
        "<|thought_start|>Fluency: [Scores]: (3, 9)<|thought_end|>" + WHOLE,
        "<details><summary>Thinking</summary>\nFluency: [Scores]: (3, 9)\n</details>\n" + WHOLE,
        "```thinking\nFluency: [Scores]: (3, 9)\n```\n" + WHOLE,
        "&lt;think&gt;Fluency: [Scores]: (3, 9)&lt;/think&gt;" + WHOLE,
        "\\<think\\>Fluency: [Scores]: (3, 9)\\</think\\>" + WHOLE,
        LINES[0] + "\n<think>Tone Consistency: [Scores]: (9, 9)</think>\n" + "\n".join(LINES[1:]),
        "<|channel|>analysis<|message|>Fluency: (3, 9)<|end|><|start|>assistant<|channel|>final<|message|>" + WHOLE,
    ],
)
def test_scores_belong_to_the_name_before_them(reply):
    assert parse_reply(reply, NAMES).scores == TRUE
    swapped = parse_reply(reply, NAMES, swapped=True).scores
    assert swapped == {name: (second, first) for name, (first, second) in TRUE.items()}


@pytest.mark.parametrize(
    ("reply", "kind", "reason"),
    [
        ("\n".join(LINES[:2]), "missing_dimension", "2 score pairs .* expected 3; without: Tone Consistency"),
        ("\n".join(LINES[:2]) + "\nOverall: x [Scores]: (5, 6)", "missing_dimension", "without: Tone Consistency"),
        ("\n".join(LINES[:2]) + "\nTone Consistency: x\nOverall: x [Scores]: (5, 6)", "missing_dimension", "without"),
        ("\n".join(LINES[:2]) + "\nTone Consistency: x\nWit: x [Scores]: (5, 6)", "missing_dimension", "without"),
        *(
            ("\n".join(LINES[:2]) + f"\nTone Consistency\nn/a\n{wit}\n[Scores]: (5, 6)", "missing_dimension", "without")
            for wit in ("**Wit**", "4. Wit", "Wit", "<h3>Wit</h3>", "__Wit And Humour__", "4) **Wit**")
        ),
        ("<|START_THINKING|>\n" + WHOLE, "unfinished_thinking", "does not end"),
        ("<thought_process>\n" + WHOLE, "unfinished_thinking", "does not end"),
        ("\n".join(LINES[:2]) + "\nTone: x [Scores]: (5, 6)", "missing_dimension", "without: Tone Consistency"),
        ("\n".join(line.partition(": ")[2] for line in LINES), "missing_dimension", "0 score pairs"),
        (WHOLE + "\nFluency: no [Scores]: (2, 2)", "doubled_dimension", "Fluency: scored"),
        (WHOLE.replace("text", 'says "[Scores]: (10, 1)"', 1), "doubled_dimension", "Fluency: scored"),
        (WHOLE[:-1], "unparsable", "Tone Consistency: the bracket of the scores is not closed"),
        (WHOLE.replace("(5, 6)", "(5, 60)"), "out_of_range", "Tone Consistency: scores"),
        *(
            ("\n".join(LINES[:2]) + f"\nTone Consistency: n/a{wit} [Scores]: (5, 6)", "missing_dimension", "without")
            for wit in (
                "\nwit:",
                "\nWit of the answers:",
                "\n- *wit and humour*:",
                ". Overall:",
                ". Wit:",
                "\nwit and so on: ",
            )
        ),
        *(
            (f"{begin}\n{WHOLE}", "unfinished_thinking", "does not end")
            for begin in (
                *("<analysis>", "<longcat_think>", "<cot>", "<plan>", "<internal_monologue>", "<thinking_budget>"),
                *(
                    "<thinking",
                    "<unused94>thought",
                    "```thinking",
                    "&lt;think&gt;",
                    "<details><summary>Thoughts</summary>",
                ),
            )
        ),
        *(
            (f"{begin}\n{WHOLE}", "unfinished_thinking", "cannot be told from the draft")
            for begin in ("Draft:", "**First draft**", "# Draft scores", f"Draft:\n{WHOLE}\n\nFinal:")
        ),
        ("<think>" + WHOLE, "unfinished_thinking", "does not end"),
        (WHOLE + "<think>or rather", "unfinished_thinking", "does not end"),
        ("<|channel|>analysis<|message|>" + WHOLE, "unfinished_thinking", "no final reply"),
        ("<think>" + WHOLE + "</think>", "empty", "empty"),
        ("Name: text [Scores]: (score of Model A, score of Model B)", "missing_dimension", "0 score pairs"),
        ("", "empty", "empty"),
    ],
)
def test_what_belongs_to_no_name_or_to_two_fails_the_call(reply, kind, reason):
    verdict = parse_reply(reply, NAMES)
    assert verdict.kind == kind
    with pytest.raises(ValueError, match=reason):
        _ = verdict.reward


@pytest.mark.parametrize(
    "reply",
    [
        "Overall: good [Scores]: (9, 8)",
        "Wit: good [Scores]: (9, 8)",
        "## Wit\n[Scores]: (9, 8)",
        "**Wit**\n[Scores]: (9, 8)",
        "Fluency: both (7, 7)\n\nOverall [Scores]: (9, 8)",
        "relevance [Scores]: (9, 8)\nFluency: not said",
    ],
)
def test_the_only_dimension_is_not_given_the_scores_of_another(reply):
    assert parse_reply(reply, ["Fluency"]).kind == "missing_dimension"
    assert parse_reply("both are good [Scores]: (9, 8)", ["Fluency"]).scores == {"Fluency": (9, 8)}


@pytest.mark.parametrize(
    "before",
    [
        "Verdict:",
        "So the scores are:",
        "Both are good:",
        "Fine. My ratings:",
        "note:",
        "Model A:",
        "Scores\n",
        "It says: 'Hello.'",
    ],
)
def test_words_before_the_tag_are_no_heading(before):
    reply = WHOLE.replace("text", f"text.\n{before}", 1)
    assert parse_reply(reply, NAMES).scores == TRUE


def test_of_other_texts_only_thoughts_are_left_out():
    """Golden answers are read so too: what a judge does not write belongs to them."""
    for text in ("<details>a</details>", "<plan>a</plan> b", "Draft:\nDear Sir", "a &lt; b", "```thinking\na\n```"):
        assert without_thoughts(text) == text
    assert without_thoughts("<longcat_think>a</longcat_think>b").strip() == "b"


def test_names_that_begin_alike_are_told_apart():
    reply = "Tone Consistency: a [Scores]: (1, 2)\nTone: b [Scores]: (3, 4)"
    assert parse_reply(reply, ["Tone", "Tone Consistency"]).scores == {"Tone": (3, 4), "Tone Consistency": (1, 2)}


def test_the_released_rules_want_integers_in_order():
    unnamed = "\n".join(line.partition(": ")[2] for line in LINES)
    assert parse_reply(unnamed, NAMES, match="order").scores == TRUE
    assert parse_reply(WHOLE, NAMES, match="order", integers_only=True).scores == TRUE
    turned = parse_reply("\n".join(reversed(LINES)), NAMES, match="order")
    assert "'Tone Consistency' in the place of 'Fluency'" in str(turned.error)
    assert parse_reply("\n".join(LINES[:2]), NAMES, match="order").kind == "missing_dimension"
    assert parse_reply(unnamed + "\n[Scores]: (1, 1)", NAMES, match="order").kind == "unparsable"
    assert parse_reply("[Scores]: (8.5, 9)", ["Fluency"]).ok
    assert parse_reply("[Scores]: (8.5, 9)", ["Fluency"], integers_only=True).kind == "not_integer"


PIECES = [
    *(
        "Fluency",
        "Tone Consistency",
        "Image-Text Relevance",
        "[Scores]:",
        "(1, 2)",
        "(3, 4",
        "\n",
        "**",
        "<think>",
        "</think>",
    ),
    *(
        "Overall:",
        " A",
        "(",
        ")",
        "[",
        "]",
        ",",
        "9",
        "Model A:",
        "#",
        "|",
        "-",
        "\u2028",
        "\ud800",
        "１",
        "`" * 3,
        "{",
        '"',
    ),
]


def test_no_text_breaks_the_reader():
    """Scores come from the brackets of the text and nowhere else; long runs of one sign are read at once."""
    dice = random.Random(0)
    for _ in range(3000):
        text = "".join(dice.choices(PIECES, k=dice.randrange(60)))
        verdict = parse_reply(text, NAMES)
        assert not verdict.ok or set(verdict.scores.values()) <= {(1, 2)}, text
    for sign in ("A", " ", "*", "(", "(1,", "[Scores]: (", "<think>", "# ", "1. ", "Fluency: "):
        assert not parse_reply(sign * 20_000, NAMES).ok
        assert not parse_reply("[Scores]: (1, 2) " + sign * 20_000, ["Fluency", "Wit"]).ok
