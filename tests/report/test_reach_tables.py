"""What the report says of the codes' reach, where several spaces share stage 5."""

from lam_jax.report.reach_tables import emitted, sentences

GAIN = {"rows": "help", "after": "sft", "gain_over_backbone": 0.462, "distinct_tokens": 2.23}
START = "Helping, before RL: a code that knows the next token raises its log-probability by 0.462 nat"
TASKS = {"help": {"title": "Helping"}}


def results(*spaces, reach=None):
    scored = [
        {"task": "help", "space": space, "after": "sft", "policy": policy, "random": 0.461} for space, policy in spaces
    ]
    token = {"task": "help", "space": "token", "after": "sft", "policy": 0.5}
    after = [each | {"after": "rl", "policy": 0.9} for each in scored]
    return {
        "tasks": TASKS,
        "reach": [GAIN] * len(spaces) if reach is None else reach,
        "reach_scores": [*scored, token, *after],
    }


def test_each_space_has_its_own_score_in_one_sentence():
    (said,) = sentences(results(("latent", 0.582), ("hybrid", 0.605)))
    assert said.startswith(START)
    assert said.endswith(
        "answers score 0.582 in the latent space and 0.605 in the hybrid space, under random codes 0.461."
    )


def test_a_space_alone_is_not_named():
    (said,) = sentences(results(("latent", 0.582)))
    assert said.endswith("; answers score 0.582, under random codes 0.461.")


def test_the_same_figures_are_shown_once():
    other = GAIN | {"gain_over_backbone": 0.3}
    assert [row["gain_over_backbone"] for row in emitted(results(reach=[GAIN, GAIN, other]))] == [0.462, 0.3]
    assert len(sentences(results(reach=[GAIN, GAIN, other]))) == 2
