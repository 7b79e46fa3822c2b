"""Golden sets of our own making: other sizes, paddings, row counts and images than the public set, in its format."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tests.parity import released_stages as stages
from tests.parity.ladder_cases import END, EOS, IMAGE, PAD, START, VIDEO, LadderCase
from tests.parity.released_reference import Released, Rows, write


@dataclass(frozen=True)
class MadeSet:
    """Rows with images, text-only rows (both of the same length) and the sizes of the latent modules."""

    mm: LadderCase
    text_rows: tuple[tuple[int, ...], ...]
    codes: int
    inverse_layers: int
    policy_layers: int
    merge_layers: int
    new_tokens: int
    trained_layers: tuple[int, ...]

    @property
    def name(self) -> str:
        return self.mm.name

    @property
    def settings(self) -> dict:
        config = self.mm.hf_config
        return {
            "name": self.name,
            "num_code": self.codes,
            "num_inverse_layer": self.inverse_layers,
            "num_policy_layer": self.policy_layers,
            "merge_layer_num": self.merge_layers,
            "gumbel_tau": 2.0,
            "tie_word_embeddings": self.mm.tied,
            "special_ids": {"image": IMAGE, "video": VIDEO, "vstart": START, "vend": END, "pad": PAD, "eos": EOS},
            "text_config": config["text_config"],
            "vision_config": config["vision_config"],
            "sft_trainable_layers": list(self.trained_layers),
            "gen_new_tokens": self.new_tokens,
        }

    @property
    def txt(self) -> LadderCase:
        return dataclasses.replace(self.mm, rows=self.text_rows, seed=self.mm.seed + 50)


_SMALL = LadderCase(
    "own",
    rows=((3, (1, 6, 4), 7), (2, (1, 2, 4), 3, (1, 4, 4), 2), (5, (1, 2, 6), 4)),
    padding="left",
    heads=2,
    kv_heads=1,
    tied=False,
    full_layers=(1,),
    window=56,
    sections=(1, 1, 2),
    width=16,
    layers=3,
)
# Small enough to be committed; the others are made afresh by `make parity`.
OWN = MadeSet(_SMALL, ((18,), (11,)), 6, 2, 3, 2, 5, (2,))
OTHERS = (
    MadeSet(
        dataclasses.replace(_SMALL, name="tied_grouped", heads=4, kv_heads=2, tied=True, width=32, seed=1),
        ((18,), (9,), (14,)),
        12,
        1,
        2,
        3,
        4,
        (1, 2),
    ),
    MadeSet(
        dataclasses.replace(_SMALL, name="one_row", rows=((2, (1, 8, 4), 8),), window=112, full_layers=(), seed=2),
        ((20,), (13,)),
        8,
        3,
        1,
        1,
        6,
        (0, 1, 2),
    ),
    MadeSet(
        dataclasses.replace(_SMALL, name="right_padded", padding="right", seed=3), ((18,), (7,)), 6, 2, 2, 2, 3, (2,)
    ),
)


def make(made: MadeSet, folder: Path) -> None:
    """Writes the set's files."""
    torch.manual_seed(made.mm.seed)
    rng = np.random.default_rng(made.mm.seed + 300)
    model, eager = Released(made.settings), Released(made.settings, "eager")
    weights = {f"w/{name}": levels(name, value, rng).numpy() for name, value in model.model.state_dict().items()}
    if made.mm.tied:
        weights["w/lm_head.weight"] = weights["w/model.language_model.embed_tokens.weight"]
    model.load(weights)
    eager.load(weights)
    mm, txt = rows(model, made.mm), rows(model, made.txt)
    assert mm.ids.shape[1] == txt.ids.shape[1], "rows with and without images must be equally long"
    noise = {name: gumbel(own, made.codes, rng) for name, own in noisy(mm, txt).items()}
    arrays, losses = stages.outputs(model, eager, mm, txt, noise)
    generation = {}
    for kind, own in (("mm", mm), ("txt", txt)):
        continued, found = stages.generate(model, own, made.new_tokens)
        generation |= {f"{kind}/{name}": value for name, value in found.items()}
        if kind == "mm":
            again = {name: found[name] for name in ("sequences", "action_idx")}
            generation |= {f"mm_nocache/{name}": value for name, value in again.items()}
            actions = found["action_idx"][:, -made.new_tokens :]
            step, losses["VLMActionRL"] = stages.rl_step(model, continued, actions, rng)
    parts = {
        "weights": weights,
        "inputs": inputs(made, mm, txt),
        "outputs": arrays,
        "generation": generation | step,
    }
    parts |= {f"grads_{stage}": stages.gradients(model, stage, loss) for stage, loss in losses.items()}
    write(folder, made.name, made.settings, parts)


def levels(name: str, weight: Tensor, rng: np.random.Generator) -> Tensor:
    """Random weights of few distinct values, which compress well."""
    values = torch.from_numpy(rng.integers(-31, 32, tuple(weight.shape))).float() / 32
    if (weight.ndim == 1 and "norm" in name) or "ln_q" in name:
        return 1 + values / 2
    return values * (2 / (weight[0].numel() if weight.ndim > 1 else 4) ** 0.5)


def rows(model: Released, case: LadderCase) -> Rows:
    given = case.inputs()
    ids, mask = torch.from_numpy(given["tokens"]), torch.from_numpy(given["mask"]).long()
    labels = ids.clone()
    labels[(mask == 0) | torch.isin(ids, torch.tensor([PAD, START, END, IMAGE]))] = -100
    grids = [grid for row in case.grids for grid in row]
    if not grids:
        return Rows(ids, mask, labels, Rows(ids, mask, labels, ids, {}).withheld().positions, {})
    images = {"pixel_values": torch.from_numpy(given["pixels"]), "image_grid_thw": torch.tensor(grids)}
    positions, _ = model.model.model.get_rope_index(
        ids, (ids == IMAGE).int(), image_grid_thw=images["image_grid_thw"], attention_mask=mask
    )
    return Rows(ids, mask, labels, positions.masked_fill(mask[None] == 0, 1), images)


def noisy(mm: Rows, txt: Rows) -> dict[str, Rows]:
    stage = "InverseActionVLM/gumbel_noise"
    paired = ("InverseWarmUp/gumbel_noise", f"{stage}_0_mm_textvision", f"{stage}_1_mm_textonly")
    return dict.fromkeys(paired, mm) | {f"{stage}_2_txt_textonly": txt}


def gumbel(own: Rows, codes: int, rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(rng.gumbel(size=(*own.ids.shape, codes))).float()


def inputs(made: MadeSet, mm: Rows, txt: Rows) -> dict[str, Tensor]:
    arrays = dict(mm.images)
    for kind, own in (("mm", mm), ("txt", txt)):
        arrays |= {f"input_ids_{kind}": own.ids, f"attention_mask_{kind}": own.mask, f"labels_{kind}": own.labels}
    return arrays
