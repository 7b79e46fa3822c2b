"""Write `mmrole_excerpt/`: one file of MMRole's reviews, reduced to the review texts, and its published results.

`python -m tests.rewards.make_mmrole_excerpt MMROLE_FOLDER`
"""

import json
import shutil
import sys
from pathlib import Path

TARGET = Path(__file__).parent / "mmrole_excerpt"
NAME = "out-test_{}/mmrole-agent/inter-role_test"


def main(source: Path) -> None:
    """Copy the texts, the CSV and the licence."""
    rows = json.loads((source / "eval" / f"{NAME.format('reviews')}.json").read_text(encoding="utf-8"))
    texts = [
        {"id": row["id"], "rm_review": {name: {"review": e["review"]} for name, e in row["rm_review"].items()}}
        for row in rows
    ]
    (TARGET / "reviews.json").write_text(json.dumps(texts, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    shutil.copyfile(source / "eval" / f"{NAME.format('results')}.csv", TARGET / "results.csv")
    shutil.copyfile(source / "LICENSE", TARGET / "LICENSE")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
