"""Tables of cost, reach and diversity of the reproduction, by hand."""

import pytest

from experiments.reproduction_records import (
    cost_table,
    diversity_rows,
    equal_diversity_table,
    over_common,
    reach_table,
    reward_at,
    used_rows,
    verdict,
)
from lam_jax.grid.arms import read_results
from tests.grid.test_tables import cell, score, write

CURVE = {"samples": [8, 16, 24, 32], "flops": [1.0, 2.0, 3.0, 4.0], "seconds": [9.0, 10.0, 11.0, 12.0]}


def curve(rewards, flops=1.0, seconds=1.0):
    steps = range(1, len(rewards) + 1)
    costs = {"samples": [8 * n for n in steps], "flops": [1e12 * flops * n for n in steps]}
    return costs | {"seconds": [seconds * n for n in steps], "reward_mean": rewards}


def rows_of(table):
    return [[part.strip() for part in line.strip("| ").split(" | ")] for line in table.splitlines()[2:]]


def made(tmp_path, *cells):
    return read_results(write(tmp_path / "grid", *cells, plan=cells))


def agent(name, seed, **fields):
    scores = fields.pop("scores", [])
    return cell(f"{name}{seed}", seed, {"seed": seed, "agent": name, "algorithm": "grpo"}, scores, **fields)


@pytest.mark.parametrize(("budget", "expected"), [(8, 0.1), (15.9, 0.1), (16, 0.15), (24, 0.2), (1e9, 0.25), (1, 0.1)])
def test_a_reward_within_a_budget(budget, expected):
    assert reward_at({**CURVE, "reward_mean": [0.1, 0.2, 0.3, 0.4]}, "samples", budget) == pytest.approx(expected)


def test_only_the_last_five_steps_count():
    assert reward_at(curve([0.0] * 5 + [1.0] * 5), "samples", 1e9) == 1.0
    assert reward_at(curve([0.0] * 5 + [1.0] * 5), "samples", 8 * 7) == pytest.approx(0.4)


def test_agents_at_equal_cost(tmp_path):
    rewards = [0.1 * n for n in range(1, 11)]
    cells = [
        agent("token", 0, curves=[curve(rewards, flops=2.0)]),
        agent("latent", 0, curves=[curve(rewards, seconds=2.0)]),
        agent("token", 1, curves=[curve(rewards, flops=2.0)]),  # without its other: not compared
    ]
    assert rows_of(cost_table(made(tmp_path, *cells))) == [
        # At half the steps where it is twice as dear.
        ["grpo", "token", *(f"{x:.3f} [{x:.3f}, {x:.3f}]" for x in (0.8, 0.3, 0.8)), "80 / 20.00 / 10", "1"],
        ["grpo", "latent", *(f"{x:.3f} [{x:.3f}, {x:.3f}]" for x in (0.8, 0.8, 0.3)), "80 / 10.00 / 20", "1"],
    ]
    assert cost_table(None) == ""


def test_reach_and_its_bounds(tmp_path):
    def scored(lead, after, **more):
        best = {"1": 0.5, "8": 0.7, "16": 0.9}
        return {"after": after, "policy": 0.6, "lead": lead, "best_of": best, "random_best_of": best} | more

    def reach(gain):
        return [{"after": "stage4", "gain_over_backbone": 9.0}, {"after": "sft", "gain_over_backbone": gain}]

    plain = {"after": "sft", "policy": 0.4, "best_of": {"1": 0.4, "8": 0.8}}
    cells = [
        agent("token", 0, reach=reach(0)[:1], reach_scores=[plain]),
        *(
            agent(
                "hybrid",
                seed,
                reach=reach(0.2 + seed),
                reach_scores=[scored(0.1 * seed, "sft", oracle=0.3), scored(0.5, "rl")],
            )
            for seed in (0, 1)
        ),
    ]
    token, hybrid = rows_of(reach_table(made(tmp_path, *cells)))
    assert token == ["token grpo", "-", "-", "-", "0.800 [0.800, 0.800]", "-", "-", "-", "1"]
    assert hybrid[0] == "hybrid grpo"
    assert hybrid[1:4] == ["0.700 [0.200, 1.200]", "0.050 [0.000, 0.100]", "0.500 [0.500, 0.500]"]
    assert hybrid[4:] == [*["0.900 [0.900, 0.900]"] * 2, "0.300 [0.300, 0.300]", "0.600 [0.600, 0.600]", "2"]


def test_diversity_is_compared_with_the_token_agents_of_the_same_seed(tmp_path):
    cells = [
        agent(name, seed, scores=[score(name, "rl", [0.5] * 4, diversity=base + (name == "latent") * step * seed)])
        for name, base, step in (("token", 2.0, 0), ("latent", 2.5, -0.25))
        for seed in range(3)
    ]
    heads, row = diversity_rows(made(tmp_path, *cells))
    assert len(heads) == len(row)
    expected = ["of embeddings", "2.250 [2.000, 2.500]", "0.250 [0.000, 0.500]", "undecided"]
    assert row == ["role_play, id, 0.1", "latent", "grpo", *expected]


def test_a_verdict_needs_three_seeds_of_one_sign():
    assert verdict([0.1, 0.2, 0.3]) == "supported"
    assert verdict([-0.1, -0.2, -0.3]) == "not supported"
    assert verdict([0.1, 0.2]) == verdict([0.1, 0.2, -0.1]) == verdict([-0.1, -0.1]) == "undecided"


def test_curves_are_compared_where_both_are():
    line = [(1.0, 0.0), (3.0, 2.0)]  # y = x - 1
    assert over_common([(2.0, 2.5), (5.0, 5.5)], line) == pytest.approx(1.5)  # y = x + .5, from 2 to 3
    assert over_common(line, [(5.0, 5.5), (2.0, 2.5)]) == pytest.approx(-1.5)
    assert over_common(line, [(3.0, 1.0), (4.0, 1.0)]) is None
    assert over_common(line, [(2.0, 1.0)]) is None


def test_scores_at_equal_diversity(tmp_path):
    points = {"token": ((1.0, 0.4), (3.0, 0.6)), "hybrid": ((1.0, 0.6), (2.0, 0.7))}
    cells = [
        agent(
            name,
            seed,
            scores=[
                score(name, "rl", [value + 0.01 * seed * (name == "hybrid")] * 4, diversity=diversity, temperature=t)
                for t, (diversity, value) in zip((0.1, 1.0), curve)
            ]
            + [score(name, "rl", [9.0] * 4, diversity=1.0, temperature=1e-6)],
        )
        for name, curve in points.items()
        for seed in range(3)
    ]
    (row,) = rows_of(equal_diversity_table(made(tmp_path, *cells)))
    # Both straight and parallel: .6 - .4 where they begin, more by .01 a seed.
    expected = ["0.210 [0.200, 0.220]", "supported", "3 of 3"]
    assert row == ["role_play, id", "hybrid", "grpo", *expected]


def test_codes_are_used_where_every_seed_says_so(tmp_path):
    def found(name, seed, gain, lead):
        reach = [{"after": "stage4", "gain_over_backbone": 0.0}, {"after": "sft", "gain_over_backbone": gain}]
        return agent(
            name, seed, reach=reach, reach_scores=[{"after": "sft", "lead": 0.0}, {"after": "rl", "lead": lead}]
        )

    cells = [found("repaired", seed, 0.25, 0.1) for seed in range(3)]
    cells += [found("latent", seed, 0.5 if seed else 0.24, 0.2) for seed in range(3)]
    cells += [found("hybrid", seed, 0.5, 0.2 if seed else 0.09) for seed in range(3)]
    cells += [found("lone", seed, 0.5, 0.5) for seed in range(2)]
    cells += [agent("token", seed, reach=[], reach_scores=[{"after": "rl"}]) for seed in range(3)]
    heads, *rows = used_rows(made(tmp_path, *cells))
    assert {row[0].split()[0]: row[-2:] for row in rows} == {
        "repaired": ["3", "supported"],
        "latent": ["3", "not supported"],
        "hybrid": ["3", "not supported"],
        "lone": ["2", "undecided"],
    }
    assert rows[1][1:3] == ["0.240, 0.500, 0.500", "0.200, 0.200, 0.200"]
    assert used_rows(None) == [heads]
