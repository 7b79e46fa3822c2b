"""Item `torch`: transformers' model of the same family and sizes on the same card: `generate`, and a token update.

Random weights, made on the card. N prompts, G samples of a prompt, T completion length.
"""

import time
from typing import Any

from benchmarks.accelerator.results import Results
from benchmarks.workload import METHOD, Workload

ROWS = 4  # of an update's micro-batch


def torch_side(results: Results, work: Workload) -> None:
    """Tokens/s of `generate`, seconds of an update; skipped where torch sees no card and ours is one."""
    import jax

    platform = jax.default_backend()
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if platform == "gpu" and device == "cpu":
        raise RuntimeError("torch sees no GPU: its CUDA build is not installed.")
    results.save(torch=torch.__version__)
    inputs = _inputs(work, device)
    if not results.has("generate.tokens_per_s"):
        with results.part("generate"):
            _generate(results, work, inputs, device)
    if not results.has("update.s"):
        with results.part("update"):
            _update(results, work, inputs, device)


def _model(work: Workload, device: str) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    from lam_jax.formats.hf_config import to_hf

    settings = to_hf(work.config, work.config.compute_dtype)
    config = AutoConfig.for_model(**settings)
    config._attn_implementation = "sdpa"
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(config)
    return model.to(getattr(torch, work.config.compute_dtype)).eval()


def _inputs(work: Workload, device: str) -> dict[str, Any]:
    import torch

    from benchmarks.torch_baseline import torch_prompts

    inputs = torch_prompts(work)
    inputs["pixel_values"] = inputs["pixel_values"].to(getattr(torch, work.config.compute_dtype))
    return {name: value.to(device) for name, value in inputs.items()}


def _synchronise(device: str) -> float:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _generate(results: Results, work: Workload, inputs: dict[str, Any], device: str) -> None:
    """Sampling at temperature 1 with a cache, every completion of full length; a short one before, untimed."""
    import torch

    model = _model(work, device)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = work.config.pad_id

    @torch.inference_mode()
    def generate(length: int) -> float:
        began = _synchronise(device)
        out = model.generate(
            **inputs, max_new_tokens=length, num_return_sequences=work.samples, use_cache=True, do_sample=True,
            temperature=1.0, top_k=0, top_p=1.0,
        )  # fmt: skip
        seconds = _synchronise(device) - began
        if tuple(out.shape) != (work.prompts * work.samples, work.prompt + length):
            raise RuntimeError(f"generate gave tokens {tuple(out.shape)}.")
        return seconds

    generate(4)
    short = generate(1)
    seconds = generate(work.completion)
    results.add("generate.s", seconds, "s", note="one run")
    results.add("generate.tokens_per_s", work.tokens / seconds, "tokens/s", note="eager, sdpa attention, one run")
    results.add("generate.step_ms", 1e3 * (seconds - short) / max(1, work.completion - 1), "ms")
    del model
    if device == "cuda":
        torch.cuda.empty_cache()


def _update(results: Results, work: Workload, inputs: dict[str, Any], device: str) -> None:
    """A token-level GRPO step as released: top blocks, norm and embedding train, a frozen reference, AdamW.

    In micro-batches of 4 rows with gradient checkpointing, since 32 rows of 2048 tokens fit no card otherwise; weights
    and moments in the compute dtype, which is less than our float32 masters.
    """
    import copy

    import torch

    model = _model(work, device)
    reference = copy.deepcopy(model).requires_grad_(False)
    model.requires_grad_(False)
    text = model.model.language_model
    for part in (*text.layers[-METHOD.trained_blocks(work.config.text.layers) :], text.norm, text.embed_tokens):
        part.requires_grad_(True)
    model.lm_head.requires_grad_(True)
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trainable, lr=1e-6, weight_decay=0.0)
    generator = torch.Generator(device="cpu").manual_seed(0)
    count = work.prompts * work.samples
    words = torch.randint(0, min(1000, work.config.text.vocab_size // 2), (count, work.completion), generator=generator)
    words, advantages = words.to(device), torch.randn(count, generator=generator).to(device)
    patches = inputs["pixel_values"].reshape(work.prompts, -1, inputs["pixel_values"].shape[-1])

    def logps(model: Any, rows: Any) -> Any:
        prompt = rows // work.samples
        tokens = torch.cat([inputs["input_ids"][prompt], words[rows]], 1)
        kinds = torch.cat([inputs["mm_token_type_ids"][prompt], torch.zeros_like(words[rows]).int()], 1)
        logits = model(
            input_ids=tokens, attention_mask=torch.ones_like(tokens), mm_token_type_ids=kinds,
            pixel_values=patches[prompt].flatten(0, 1), image_grid_thw=inputs["image_grid_thw"][prompt],
            logits_to_keep=work.completion + 1, use_cache=False,
        ).logits[:, :-1].float()  # fmt: skip
        return logits.gather(-1, words[rows][..., None])[..., 0] - logits.logsumexp(-1)

    def update() -> float:
        began = _synchronise(device)
        optimiser.zero_grad(set_to_none=True)
        for rows in torch.arange(count, device=device).split(ROWS):
            with torch.no_grad():
                ref = logps(reference, rows)
            own = logps(model, rows)
            difference = ref - own
            penalty = torch.expm1(difference) - difference
            loss = -torch.exp(own - own.detach()) * advantages[rows, None] + 0.01 * penalty
            (loss.mean() * len(rows) / count).backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimiser.step()
        return _synchronise(device) - began

    update()
    results.add("update.s", update(), "s", note=f"one run, micro-batches of {ROWS} rows, gradient checkpointing, sdpa")
    if device == "cuda":
        results.add("update.peak_memory", torch.cuda.max_memory_allocated() / 2**30, "GiB")
