"""Every rung of the ladder from transformers' models in torch, float32 on a CPU."""

from typing import Any

import numpy as np
import torch
from transformers import Qwen2_5_VLConfig, Qwen3VLConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLForConditionalGeneration
from transformers.vision_utils import get_vision_interpolation_indices_and_weights, get_vision_window_index

from tests.parity.ladder_cases import IMAGE, LadderCase

Arrays = dict[str, np.ndarray]
_CLASSES = {
    "qwen2_5_vl": (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration),
    "qwen3_vl": (Qwen3VLConfig, Qwen3VLForConditionalGeneration),
}


def reference(case: LadderCase) -> Arrays:
    """Inputs, weights (`w/NAME`), rungs and gradients (`grad/NAME`) of a case."""
    model = _model(case)
    arrays = case.inputs()
    arrays |= {f"w/{name}": value.numpy() for name, value in model.state_dict().items()}
    rungs, gradients = _run(model, case, arrays)
    return arrays | rungs | {f"grad/{name}": value for name, value in gradients.items()}


def _model(case: LadderCase) -> Any:
    config_class, model_class = _CLASSES[case.model_type]
    config = config_class(**case.hf_config)
    config._attn_implementation = "sdpa"
    model = model_class(config).float().eval()
    # Larger than the usual initialisation, so that no path is too faint to be compared; few levels keep files small.
    rng = np.random.default_rng(case.seed + 100)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            levels = torch.from_numpy(rng.integers(-31, 32, tuple(weight.shape))).float() / 32
            is_norm = name.endswith(("norm.weight", "norm1.weight", "norm2.weight", "ln_q.weight"))
            fan_in = weight[0].numel() if weight.ndim > 1 else 4
            weight.copy_(1 + levels / 2 if is_norm else levels * (2 / fan_in**0.5))
    return model


def _run(model: Any, case: LadderCase, arrays: Arrays) -> tuple[Arrays, Arrays]:
    seen: dict[str, torch.Tensor] = {}

    def record(name):
        def hook(module, arguments, output):
            seen[name] = output[0] if isinstance(output, tuple) else output

        return hook

    text, tower = model.model.language_model, model.model.visual
    for prefix, blocks in (("text", text.layers), ("vision", tower.blocks)):
        for index, block in enumerate(blocks):
            block.register_forward_hook(record(f"{prefix}/block_{index}"))
    text.layers[0].input_layernorm.register_forward_hook(record("text/first_norm"))
    text.norm.register_forward_hook(record("text/states"))
    tower.patch_embed.register_forward_hook(record("vision/patches"))
    tower.rotary_pos_emb.register_forward_hook(lambda *a: seen.update({"vision/cos": a[2][0], "vision/sin": a[2][1]}))
    text.rotary_emb.register_forward_hook(lambda *a: seen.update({"text/cos": a[2][0], "text/sin": a[2][1]}))

    tokens, mask = torch.from_numpy(arrays["tokens"]), torch.from_numpy(arrays["mask"])
    grids = torch.tensor([grid for row in case.grids for grid in row])
    kinds = (tokens == IMAGE).int()
    images = {}
    if len(grids):
        images = {"pixel_values": torch.from_numpy(arrays["pixels"]), "image_grid_thw": grids}
        positions = model.model.get_rope_index(tokens, kinds, image_grid_thw=grids, attention_mask=mask.long())[0]
    else:
        order = (mask.long().cumsum(1) - 1).masked_fill(~mask, 1)
        positions = order[None].expand(3, -1, -1)
    out = model(input_ids=tokens, attention_mask=mask.long(), position_ids=positions, mm_token_type_ids=kinds, **images)
    # A weighted sum of all real logits: its gradient reaches every weight.
    probe = torch.from_numpy(np.random.default_rng(case.seed + 200).standard_normal(out.logits.shape)).float()
    (out.logits * probe * mask[..., None]).sum().backward()
    rungs = {"text/positions": positions.transpose(0, 1), "text/logits": out.logits, "probe": probe, **seen}
    if len(grids):
        rungs |= _TOWERS[case.model_type](model, images, seen)
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return _numpy(rungs), _numpy(gradients)


def _tower(model, images, seen) -> dict[str, torch.Tensor]:
    """The tower's blocks back in the processor's order, its windows, and the merged embeddings."""
    config = model.config.vision_config
    merge = config.spatial_merge_size
    order, starts = get_vision_window_index(
        images["image_grid_thw"], spatial_merge_size=merge, window_size=config.window_size, patch_size=config.patch_size
    )
    unit = merge**2
    slots = (order[:, None] * unit + torch.arange(unit)).flatten()
    rungs = {"vision/window_order": slots, "vision/window_starts": torch.unique(starts)}
    for name, value in seen.items():
        if name.startswith("vision/block_"):
            rungs[name] = value[torch.argsort(slots)]
    rungs["vision/embeds"] = model.model.visual(images["pixel_values"], images["image_grid_thw"]).pooler_output
    return rungs


def _tower3(model, images, seen) -> dict[str, torch.Tensor]:
    """What the table says of the patches' places, the merged embeddings, and the features for the text decoder."""
    tower, side = model.model.visual, model.model.visual.num_grid_per_side
    merge = model.config.vision_config.spatial_merge_size
    index, weight = get_vision_interpolation_indices_and_weights(
        images["image_grid_thw"], side, align_corners=True, spatial_merge_size=merge
    )
    out = tower(images["pixel_values"], images["image_grid_thw"])
    rungs = {"vision/embeds": out.pooler_output, "vision/places": (tower.pos_embed(index) * weight[..., None]).sum(1)}
    return rungs | {f"vision/features_{i}": feature for i, feature in enumerate(out.deepstack_features)}


_TOWERS = {"qwen2_5_vl": _tower, "qwen3_vl": _tower3}


def _numpy(tensors: dict[str, torch.Tensor]) -> Arrays:
    return {name: value.detach().numpy() for name, value in tensors.items()}
