"""How well a model sees: object names of held-out scenes, teacher-forced and in free-running captions."""

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from lam_jax.data.collator import Collated
from lam_jax.data.loader import in_order
from lam_jax.data.schemas import Example
from lam_jax.evaluation.generate import generate
from lam_jax.losses import next_token, target_mask
from lam_jax.models.backbone import Backbone
from lam_jax.models.inputs import Batch
from lam_jax.nn.layout import Layout
from lam_jax.parallel import TRAIN, mesh_of, use
from lam_jax.parallel.choose_layout import choose_layout
from lam_jax.parallel.multihost import to_host
from lam_jax.rollout.actions import TokenActions
from lam_jax.rollout.engine import RolloutConfig
from lam_jax.rollout.sampling import SamplingConfig
from lam_jax.scenes.compose import concepts

Collate = Callable[[Sequence[Example], int], Collated]


@dataclasses.dataclass(frozen=True)
class CaptionScores:
    """Scores of a captioner.

    Attributes:
        name_accuracy: share of object-name tokens of reference captions that are the model's first choice.
        exact_captions: share of greedy captions that name every object and invent none.
        cross_entropy: nats a token over the response tokens of the reference captions.
        scenes: number of held-out scenes.
    """

    name_accuracy: float
    exact_captions: float
    cross_entropy: float
    scenes: int


def named_objects(text: str) -> set[str]:
    """Singular names of all objects that a text mentions."""
    forms = {form: c.name for c in concepts() for form in (c.name, c.plural)}
    return {forms[word] for word in re.findall(r"[a-z]+", text.lower()) if word in forms}


@functools.partial(jax.jit, static_argnames="layout")
def _first_choices(model: Backbone, batch: Batch, layout: Layout):
    with use(None, TRAIN, layout):  # rows lie where the compiler likes: they need not divide over a mesh
        states = model.states(batch, frozen=True)
        keep = target_mask(batch.valid, batch.mask, batch.response)
        return model.logits(states).argmax(axis=-1), keep, next_token(states, model.table, batch.tokens, keep)


def caption_scores(
    model: Backbone, examples: Sequence[Example], train: Collate, prompt: Collate, tokenizer: Any, batch_size: int = 32
) -> CaptionScores:
    """Scores on examples whose references name every object (split `caption_test`).

    Args:
        model: the backbone.
        examples: held-out scenes with facts.
        train: collator of whole chats.
        prompt: collator of left-padded prompts.
        tokenizer: the model's.
        batch_size: rows of a batch.
    """
    names = {i for c in concepts() for i in tokenizer.encode(f" {c.name}", add_special_tokens=False)}
    right = total = 0
    loss = count = 0.0
    layout = choose_layout(mesh_of(model))
    for collated in in_order(examples, train, batch_size):
        choices, keep, ce = to_host(_first_choices(model, collated.batch, layout))
        targets = np.roll(np.asarray(collated.batch.tokens), -1, axis=1)
        is_name = keep & np.isin(targets, list(names))
        right += int((is_name & (choices == targets)).sum())
        total += int(is_name.sum())
        loss, count = loss + float(ce.total), count + float(ce.count)
    config = RolloutConfig(samples=1, length=64, sampling=SamplingConfig(temperature=0.0))
    answered = generate(TokenActions(model), examples, prompt, tokenizer, config, jax.random.key(0), batch_size)
    exact = [
        named_objects(item.answers[0].text) == {thing["name"] for thing in (item.example.facts or {})["objects"]}
        for item in answered
    ]
    return CaptionScores(right / max(1, total), float(np.mean(exact)), loss / max(1.0, count), len(exact))
