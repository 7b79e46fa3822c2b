"""What the judge is asked (method.md section 4): text only, the answer and the reference side by side."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from lam_jax.rewards.dimensions import JudgeRubric


@dataclasses.dataclass(frozen=True)
class JudgeRequest:
    """One answer to be judged.

    Attributes:
        row, sample: key of the answer; they also decide the order in which answer and reference are shown.
        rubric: which dimensions and which point of view.
        messages: the conversation up to the answer, `{"role", "content"}`.
        answer, reference: the two texts.
        facts: of the row; those that the rubric names are shown.
    """

    row: str
    sample: int
    rubric: JudgeRubric
    messages: Sequence[Mapping[str, str]]
    answer: str
    reference: str
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        missing = [key for key in self.rubric.facts if key not in self.facts]
        if missing:
            raise ValueError(
                f"row {self.row!r}: facts lack {missing} (found {sorted(self.facts)}), which the judge "
                "is shown; add them to the row's facts (eval_info of PCogAlignBench)"
            )


def judge_messages(request: JudgeRequest, swapped: bool) -> list[dict[str, str]]:
    """Chat messages for the judge; `swapped` shows the reference as Model A."""
    first, second = (request.reference, request.answer) if swapped else (request.answer, request.reference)
    dimensions = request.rubric.dimensions
    asked = "\n".join(f"{number}. {name}: {text}" for number, (name, text) in enumerate(dimensions.items(), start=1))
    parts = [
        *_situation(request),
        f"## Model A\n\n{first}",
        f"## Model B\n\n{second}",
        f"## Task\n\nCompare the two models on each of these {len(dimensions)} dimensions, in this order:\n{asked}",
        "For each dimension write one or two sentences, then the scores of Model A and Model B from 1 (poor) to 10 "
        "(excellent), in exactly this form:\nName: text [Scores]: (score of Model A, score of Model B)\n"
        f"Write {len(dimensions)} such paragraphs and nothing else. The order of the models means nothing.",
    ]
    return [{"role": "system", "content": request.rubric.system}, {"role": "user", "content": "\n\n".join(parts)}]


def _situation(request: JudgeRequest) -> list[str]:
    parts = [f"## {title}\n\n{_text(request.facts[key])}" for key, title in request.rubric.facts.items()]
    turns = [f"[{turn['role']}]: {turn['content']}" for turn in request.messages]
    return [*parts, "## Conversation\n\n" + "\n".join(turns)]


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return "\n".join(f"- {key}: {_text(item)}" for key, item in value.items())
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
