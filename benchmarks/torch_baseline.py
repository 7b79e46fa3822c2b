"""The yardstick: transformers' model of the family in torch, the same weights, prompts, sampling and recipe.

N prompts, G samples of a prompt, P prompt length, T completion length. Needs the extra `bench`.
"""

import copy
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForImageTextToText

from benchmarks.records import usable_cores
from benchmarks.workload import METHOD, Workload, prompts
from lam_jax.formats.save_backbone import save_backbone
from lam_jax.models.backbone import Backbone
from lam_jax.rl import ALGORITHMS

Inputs = dict[str, torch.Tensor]


def torch_model(backbone: Backbone) -> Any:
    """The same model in torch, float32, on as many threads as jax uses."""
    torch.set_num_threads(usable_cores())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        save_backbone(backbone, path)
        model = AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32)
    return model.eval()


def torch_prompts(work: Workload) -> Inputs:
    """The workload's prompts as `generate` wants them."""
    batch = prompts(work)
    tokens = torch.from_numpy(np.array(batch.tokens)).long()
    assert batch.images is not None
    patches = np.asarray(batch.images.patches).reshape(-1, batch.images.patches.shape[-1])
    return {
        "input_ids": tokens,
        "attention_mask": torch.ones_like(tokens),
        "pixel_values": torch.from_numpy(patches.copy()),
        "image_grid_thw": torch.tensor([(1, *work.grid)] * work.prompts),
        "mm_token_type_ids": (tokens == work.config.image_id).int(),
    }


class TorchRollout:
    """`generate`: G samples of each prompt with a cache, temperature 1, every completion of full length."""

    def __init__(self, model: Any, work: Workload):
        self.model, self.work, self.inputs = model, work, torch_prompts(work)
        # No end-of-turn token: forced lengths without a logits processor in the way.
        model.generation_config.eos_token_id = None
        model.generation_config.pad_token_id = work.config.pad_id

    @torch.inference_mode()
    def __call__(self) -> torch.Tensor:
        out = self.model.generate(
            **self.inputs,
            max_new_tokens=self.work.completion,
            num_return_sequences=self.work.samples,
            use_cache=True,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
        )
        expected = (self.work.prompts * self.work.samples, self.work.prompt + self.work.completion)
        if tuple(out.shape) != expected:
            raise RuntimeError(f"generate gave tokens {tuple(out.shape)}, expected {expected}.")
        return out


class TorchUpdate:
    """A token-level GRPO step with AdamW as released: top blocks, final norm, embedding and (tied) head train.

    Log-probabilities are taken of completion positions only (`logits_to_keep`), there is no activation checkpointing,
    and the reference is a frozen copy: the fastest plain form of the recipe.
    """

    def __init__(self, model: Any, work: Workload, completions: np.ndarray):
        """`completions` are tokens [N, G, T]; random weights also sample picture marks, which torch would look up."""
        marks = (work.config.image_id, work.config.video_id, work.config.vision_start_id)
        completions = np.where(np.isin(completions, marks), 0, completions)
        self.work, self.model, self.reference = work, copy.deepcopy(model), model
        self.reference.requires_grad_(False)
        self.model.requires_grad_(False)
        text = self.model.model.language_model
        for part in (*text.layers[-METHOD.trained_blocks(work.config.text.layers) :], text.norm, text.embed_tokens):
            part.requires_grad_(True)
        self.model.lm_head.requires_grad_(True)
        self.trainable = [p for p in self.model.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(self.trainable, lr=1e-6, weight_decay=0.0)
        self.inputs = self._rows(completions)
        self.targets = torch.from_numpy(completions.reshape(-1, work.completion)).long()
        self.advantages = torch.from_numpy(np.random.default_rng(0).standard_normal(len(self.targets))).float()

    def _rows(self, completions: np.ndarray) -> Inputs:
        """Whole rows [N * G, P + T] with their pictures."""
        count = self.work.samples
        once = torch_prompts(self.work)
        patches = once.pop("pixel_values").reshape(self.work.prompts, -1, self.work.config.vision.patch_size)
        inputs = {name: value.repeat_interleave(count, 0) for name, value in once.items()}
        inputs["pixel_values"] = patches.repeat_interleave(count, 0).flatten(0, 1)
        new = torch.from_numpy(completions.reshape(-1, self.work.completion)).long()
        inputs["input_ids"] = torch.cat([inputs["input_ids"], new], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(new).int()], 1)
        return inputs

    def logps(self, model: Any) -> torch.Tensor:
        """Log-probabilities [N * G, T] of the completions."""
        logits = model(**self.inputs, logits_to_keep=self.work.completion + 1, use_cache=False).logits[:, :-1]
        chosen = logits.gather(-1, self.targets[..., None])[..., 0]
        return chosen - logits.logsumexp(-1)

    def __call__(self) -> float:
        algorithm = ALGORITHMS["grpo"]
        with torch.no_grad():
            reference = self.logps(self.reference)
        logps = self.logps(self.model)
        # One update a rollout: the ratio is 1 and carries the gradient.
        ratio = torch.exp(logps - logps.detach())
        difference = reference - logps
        penalty = torch.expm1(difference) - difference
        loss = (-ratio * self.advantages[:, None] + algorithm.beta * penalty).mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trainable, 1.0)
        self.optimiser.step()
        return loss.item()
