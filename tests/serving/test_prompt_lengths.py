"""At which lengths prompts are read, and how many at a time."""

import dataclasses
import functools

from lam_jax.agents.prompts import prompt_of
from lam_jax.serving.counters import Counters
from lam_jax.serving.messages import prompt_reader
from lam_jax.serving.requests import RequestReader
from lam_jax.serving.scheduler import Job, Scheduler
from lam_jax.serving.server import make_decoder
from lam_jax.serving.settings import ServeSettings


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


def test_prompts_that_wait_and_are_alike_are_read_at_a_time(agent, monkeypatch):
    read, failed = [], []
    decoder = make_decoder(agent, ServeSettings(slots=4, length=4))

    def reading(prompts, whole=decoder.read):
        read.append(len(prompts.tokens))
        if len(prompts.tokens) == 2 and not failed:
            failed.append(True)
            raise MemoryError
        return whole(prompts)

    monkeypatch.setattr(decoder, "read", reading)
    prompts, said, scheduler = prompt_reader(agent), {}, Scheduler(agent, decoder, Counters())
    one = RequestReader(agent, ServeSettings(), "a")(
        b'{"model": "a", "messages": [{"role": "user", "content": "Hi"}], "seed": 3}'
    )
    jobs = []
    for index, words in enumerate(["Hi", "Ho", "a" * 100, "He", "Ha"]):
        asked = dataclasses.replace(one, example=prompt_of(words, [], "q"), most=4)
        tell = functools.partial(said.setdefault, index)
        jobs.append(Job(asked, prompts([asked.example]).batch, tell))
    with scheduler._changed:  # all are there before the first is looked at
        scheduler._waiting.extend(jobs)
        scheduler._changed.notify()
    scheduler.close()
    # Of the first four three are alike: two of them fail together, so the first is read alone, then the others.
    assert read == [2, 1, 2, 1, 1]
    for index, job in enumerate(jobs):
        (row,) = agent.generate([job.asked.example], length=4, seed=3)
        assert said[index].tokens == row.answers[0].tokens
