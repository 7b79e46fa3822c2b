"""At which lengths prompts are read."""

import dataclasses

from lam_jax.agents.prompts import prompt_of
from lam_jax.serving.messages import prompt_reader


def test_a_prompt_is_read_at_the_least_of_its_lengths_that_holds_it(agent):
    longest = 402
    agent = dataclasses.replace(agent, settings=dataclasses.replace(agent.settings, prompt_lengths=(longest,)))
    read = prompt_reader(agent)
    found = [read([prompt_of("a" * count, [], "q")]) for count in (1, 100, 250, 1000)]
    for made_of in found[:3]:
        tokens = int(made_of.batch.mask.sum())
        assert made_of.batch.tokens.shape[1] == min(step for step in (51, 101, 201, 402) if step >= tokens)
        assert not made_of.cuts.rows
    assert len({made_of.batch.tokens.shape for made_of in found}) == 3
    assert found[3].cuts.rows == 1
    assert found[3].batch.tokens.shape == (1, longest)
