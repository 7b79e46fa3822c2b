"""Scores answers in one of several processes: `python -m tests.processes.scoring FOLDER`.

Writes what this process was asked about and all verdicts that it has afterwards.
"""

import dataclasses
import json
import sys
from pathlib import Path

from lam_jax.parallel.processes import start


def main(folder: str) -> None:
    """Answers 0 to 4, two samples each; the call about answer 3 fails."""
    import jax

    from lam_jax.data.schemas import Example
    from lam_jax.evaluation.generate import Answer, Answered, score_answers
    from lam_jax.rewards.verdict import Verdict

    asked: list[str] = []

    def reward(examples, answers, samples):
        asked.extend(example.id for example in examples)
        return [
            [
                Verdict({"a": (int(e.id), 3.0)}) if e.id != "3" else Verdict(error=f"{e.id}/{s}", kind="timeout")
                for s in samples
            ]
            for e in examples
        ]

    chat = ({"role": "user", "content": "?"}, {"role": "assistant", "content": "Yes."})
    answered = [Answered(Example(str(i), chat), [Answer("x", [1], [1])] * 2) for i in range(5)]
    scored = [dataclasses.asdict(item) for item in score_answers(answered, reward)]
    Path(folder, f"{jax.process_index()}.json").write_text(json.dumps({"asked": asked, "scored": scored}))


if __name__ == "__main__":
    start()
    main(sys.argv[1])
