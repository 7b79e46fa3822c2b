"""What a run with two judges will ask of each is told before it starts."""

from lam_jax.pipeline import opened_apart
from lam_jax.pipeline.judge_cost import judge_costs
from lam_jax.recipes import mmrole
from tests.end_to_end.real_files import loopback_judge, write_mmrole


def test_what_each_judge_will_be_asked_is_told_before(tmp_path):
    """By hand for two spaces: 4 x 2 x 4 rollouts, 2 x 8 validations, 2 x 8 x 2 training prompts; 2 x 14 x 3 tests."""
    with loopback_judge() as judge:
        recipe = mmrole.recipe(
            **write_mmrole(tmp_path),
            judge=judge.url,
            judge_model="trainer",
            evaluation_judge_model="examiner",
            preset="tiny",
        )
        with opened_apart(recipe) as resources:
            trainer, examiner = judge_costs(resources)
    assert (trainer.model, trainer.training, trainer.evaluation) == ("trainer", 2 * 32, 2 * (16 + 32))
    assert (examiner.model, examiner.training, examiner.evaluation) == ("examiner", 0, 2 * 2 * 3 * 14)
