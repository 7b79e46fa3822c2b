"""Files of one's own, as a user would have them: 30 pictures, three row files and a reward of ten lines."""

import json
from pathlib import Path

from PIL import Image

COLOURS = ("red", "green", "blue", "grey")
REWARD = '''"""Share of the words that are colours, and a bit of the length, so that hardly two answers are alike."""

COLOURS = {"red", "green", "blue", "grey"}


def value(text):
    words = text.split() or [""]
    return sum(word in COLOURS for word in words) / len(words) / 2 + len(text) % 50 / 100


async def score(examples, answers):
    return {"all": [[value(text) for text in group] for group in answers]}
'''


def value(text: str) -> float:
    """What the reward file computes, written again."""
    words = text.split() or [""]
    return sum(word in COLOURS for word in words) / len(words) / 2 + len(text) % 50 / 100


def write_files(folder: Path, reward: str = "made_score") -> dict[str, str]:
    """The files by the flags of `lam-jax train own`; `reward`: name of the reward's module."""
    paired, text, task = [], [], []
    for i in range(30):
        colour = COLOURS[i % 4]
        Image.new("RGB", (112, 84), colour).save(folder / f"{i}.png")
        answer = {"role": "assistant", "content": f"It is {colour}."}
        chat = [{"role": "user", "content": "What colour is it?"}, answer]
        paired.append({"id": f"p{i}", "images": [f"{i}.png"], "messages": chat})
        text.append({"id": f"t{i}", "messages": [{"role": "user", "content": f"Say {colour}."}, answer]})
        task.append({"id": f"q{i}", "image": f"{i}.png", "messages": chat})
    (folder / "paired.json").write_text(json.dumps(paired))
    (folder / "text.json").write_text(json.dumps(text))
    (folder / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in task))
    (folder / f"{reward}.py").write_text(REWARD)
    names = {"paired": "paired.json", "text": "text.json", "task": "task.jsonl"}
    return {flag: str(folder / name) for flag, name in names.items()} | {"reward": f"{folder / reward}.py:score"}


def flags(files: dict[str, str]) -> list[str]:
    """As arguments of the command."""
    return [word for name, value in files.items() for word in (f"--{name}", value)]
