"""A process that scores answers with a judge, in a folder: `python -m tests.rewards.judge_child URL FOLDER FIRST LAST`.

Prints a line of JSON: how many verdicts there are, and how many differ from the truth.
"""

import json
import sys

from lam_jax.rewards import judge_store
from lam_jax.rewards.judge import Judge, JudgeConfig
from tests.rewards.faulty_judge import request, true_scores


def main(url: str, folder: str, first: int, last: int) -> None:
    """Scores the answers from `first` up to `last`."""
    with judge_store.opened(folder):
        verdicts = Judge(JudgeConfig(url, "fake", concurrency=4)).score([request(n) for n in range(first, last)])
    wrong = [n for n, v in zip(range(first, last), verdicts, strict=True) if v.ok and dict(v.scores) != true_scores(n)]
    print(json.dumps({"ok": sum(v.ok for v in verdicts), "wrong": wrong}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
