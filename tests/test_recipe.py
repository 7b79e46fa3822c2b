"""What a recipe refuses, so that it does not fail hours later; and how what it says is read back."""

import dataclasses
import subprocess
import sys
from typing import Any

import pytest

from lam_jax.recipe import AnswerSet, Recipe, in_every_space
from lam_jax.recipes import own
from lam_jax.rollout.sampling import SamplingConfig
from lam_jax.train.optimiser import OptimiserConfig
from tests.two_spaces import BOTH

DEMO = BOTH
ANY = in_every_space(SamplingConfig())


def with_rl(**fields):
    return lambda: dataclasses.replace(DEMO, rl=dataclasses.replace(DEMO.rl, **fields))


def with_task(**fields):
    task = dataclasses.replace(DEMO.tasks[0], **fields)
    rl = dataclasses.replace(DEMO.rl, task_algorithms={})
    return lambda **more: dataclasses.replace(DEMO, tasks=(task,), rl=dataclasses.replace(rl, **more))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (with_rl(mini_batches=3), "mini_batches 3 must divide prompts 16"),
        (with_rl(update_lengths=(32, 16)), r"RLSettings.update_lengths is \(32, 16\), expected increasing"),
        (with_rl(update_lengths=(16, 56)), "below the answer_length 56 of task 'role_play'"),
        (with_rl(validate_every=-1), "RLSettings.validate_every is -1, expected at least 0"),
        (with_rl(max_failed_steps=-1), "RLSettings.max_failed_steps is -1, expected at least 0"),
        (with_rl(least_usable=1.5), "RLSettings.least_usable is 1.5, expected a share between 0 and 1"),
        (with_rl(samples=1), "RLSettings.samples is 1, expected at least 2"),
        (with_rl(sampling={**ANY, "tokens": SamplingConfig()}), "rl.sampling names 'tokens'"),
        (
            with_rl(sampling=in_every_space(SamplingConfig(repetition_penalty=1.05))),
            "rl.sampling\\['token'\\].repetition_penalty is 1.05, whose distribution the loss does not score",
        ),
        (with_rl(optimisers={"latent": OptimiserConfig(1e-3)}), "no entry for the space 'token'"),
        (lambda: AnswerSet(1, ANY), "AnswerSet.samples is 1, expected at least 2"),
        (with_task(name="paired"), "Recipe.tasks holds 'paired', the name of a corpus"),
        (with_task(name="text_only"), "Recipe.tasks holds 'text_only', the name of a corpus"),
        (lambda: own.recipe("t.json", "p.json", name="paired"), "the name of a corpus"),
        (lambda: dataclasses.replace(DEMO.evaluation, prompts=0), "EvaluationSettings.prompts is 0"),
        (lambda: dataclasses.replace(DEMO.paired, prompt_lengths=()), r"Corpus.prompt_lengths is \(\)"),
    ],
)
def test_what_would_fail_in_a_later_stage_is_refused_at_once(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_several_prompt_lengths_go_with_every_algorithm():
    for algorithm in (DEMO.rl.algorithm, DEMO.rl.task_algorithms["role_play"]):
        assert with_task(prompt_lengths=(64, 160))(algorithm=algorithm).tasks[0].prompt_lengths == (64, 160)


def leaves(value, path=()):
    """Paths to every plain field of nested dataclasses, tuples and mappings, with the values there."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from leaves(getattr(value, field.name), (*path, field.name))
    elif isinstance(value, bool | int | float | str):
        yield path, value


def changed(value: Any, path: tuple[str, ...], new: Any) -> Any:
    if not path:
        return new
    return dataclasses.replace(value, **{path[0]: changed(getattr(value, path[0]), path[1:], new)})


def test_every_plain_field_changes_the_fingerprint():
    """Another value that the classes accept: a text with a letter more, a number that is a little larger."""
    recipe = own.recipe("task.json", "paired.json", "text.json")
    known, tried = {recipe.fingerprint()}, 0
    for path, value in leaves(recipe):
        if isinstance(value, str):
            continue
        new = not value if isinstance(value, bool) else value + (1 if isinstance(value, int) else 1e-6)
        try:
            other = changed(recipe, path, new)
        except ValueError:
            continue
        assert other.fingerprint() not in known, path
        assert Recipe.from_json(other.to_json()) == other, path
        known.add(other.fingerprint())
        tried += 1
    assert tried > 60


def test_a_remat_that_is_none_is_refused_where_no_type_checker_runs():
    """These tests check types at every call, users do not: a process of its own."""
    code = (
        "import dataclasses; from lam_jax.recipes import demo; dataclasses.replace(demo.recipe().rl, remat='product')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ValueError: RLSettings.remat is 'product', expected False, True or 'products'" in done.stderr
