"""One good and one bad answer for a judge: whether an endpoint can be used, and whether its scores tell them apart."""

import json
import tempfile
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from lam_jax.data.schemas import Example
from lam_jax.rewards import judge_store
from lam_jax.rewards.dimensions import HELP_RUBRIC, ROLE_PLAY_RUBRIC
from lam_jax.rewards.judge import REMEDIES, JudgeReward
from lam_jax.rewards.judge_client import Judge, JudgeError
from lam_jax.rewards.judge_config import JudgeConfig
from lam_jax.rewards.judge_store import LOG

TaskName = Literal["role_play", "help"]
ROLE_PLAY_CASE = Example(
    "role_play",
    (
        {"role": "system", "content": "You are Captain Nemo. Stay in character."},
        {
            "role": "user",
            "content": "Name: Captain Nemo\nPersonality: proud, learned, bitter against the world on land\n"
            "Catchphrase: The sea is everything.\nQuestion: This picture shows a lighthouse in a storm. What do you "
            "think when you see it?",
        },
        {
            "role": "assistant",
            "content": "A lighthouse! A candle that the men of the land hold against a storm they fear. Aboard the "
            "Nautilus, thirty feet below, not a lamp would tremble. The sea is everything.",
        },
    ),
)
HELP_CASE = Example(
    "help",
    (
        {"role": "system", "content": 'You are a helpful assistant for a user who is "Teacher at school".'},
        {"role": "user", "content": "A chair in my classroom has broken. What should I do now?"},
        {
            "role": "assistant",
            "content": "Keep the pupils away from it and move it to the side so that nobody sits on it by habit. Take "
            "a spare chair for the pupil, go on with the lesson calmly, and report the chair to the caretaker.",
        },
    ),
    (),
    {
        "role_set": {"school": "Teacher"},
        "location": "school",
        "ImageDesc": "A classroom with pupils at their desks; one chair lies on the floor with a broken leg.",
        "EvalHelp": "Quick, calm steps that keep the pupils safe and the lesson going.",
    },
)
GOOD = {
    "role_play": "A tower of stone with a lamp in its hand, and the ocean throws itself at it all night long! I have "
    "seen such fires from below, trembling on the waves like the hopes of those on land. I need no such beacon. The "
    "sea is everything.",
    "help": "First move the broken chair out of the way so that no pupil gets hurt, and give the pupil another one. "
    "Then go on with your lesson; at the break tell the caretaker, and mark the chair so that nobody uses it.",
}
BAD = "As a language model I have no opinion banana banana. Chairs and lamps is thing. Goodbye."


def check(config: JudgeConfig, task: TaskName, show_replies: bool = False, console: Console | None = None) -> int:
    """Asks about both answers and prints what came back; 0 if the judge can be used and prefers the good one."""
    console = console or Console()
    example, rubric = (ROLE_PLAY_CASE, ROLE_PLAY_RUBRIC) if task == "role_play" else (HELP_CASE, HELP_RUBRIC)
    reward = JudgeReward(config, rubric)
    requests = [reward.request(example, 0, GOOD[task]), reward.request(example, 1, BAD)]
    with tempfile.TemporaryDirectory() as folder:
        store = judge_store.JudgeStore(folder, shared=False)
        judge = Judge(config, store)
        try:
            verdicts = judge.score(requests)
        except JudgeError as error:
            _say(console, f"unusable: {error}")
            return 1
        finally:
            store.close()
        records = _records(Path(folder) / LOG)
    for name, verdict, sample in zip(("good answer", "bad answer"), verdicts, (0, 1), strict=True):
        own = [record for record in records if record["sample"] == sample]
        tokens = sum(record["usage"]["prompt"] + record["usage"]["completion"] for record in own)
        cost = f"{sum(record['ms'] for record in own) / 1000:.1f} s, {len(own)} calls, {tokens} tokens"
        if verdict.ok:
            _say(console, f"{name}: {verdict.mean_ratio:.3f} of the reference ({cost})")
            for dimension, (answer, reference) in verdict.scores.items():
                _say(console, f"  {dimension}: {answer:g} against {reference:g}")
        else:
            _say(console, f"{name}: failed, {verdict.kind}: {verdict.error} ({cost})")
            _say(console, f"  {REMEDIES.get(verdict.kind or '', 'See docs/judge.md.')}")
        for record in own if show_replies else ():
            _say(console, record["reply"] or f"  no reply: {record.get('error')}")
    if any(verdict.ok for verdict in verdicts) and not any(record["usage"]["prompt"] for record in records):
        _say(console, "The endpoint counts no tokens (no `usage`): max_total_tokens would never be reached.")
    good, bad = verdicts
    if not (good.ok and bad.ok):
        _say(console, "unusable: not every call gave scores")
        return 1
    if bad.mean_ratio >= good.mean_ratio:
        _say(console, "unusable: the bad answer scores as well as the good one; take a stronger model")
        return 1
    _say(console, "usable: every call gave scores, and the good answer scores better")
    return 0


def _records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, highlight=False, markup=False)
