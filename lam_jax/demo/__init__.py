"""`lam-jax demo`: the whole method on the built-in data set, from the base model to the report."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from lam_jax.data.loader import in_order
from lam_jax.demo.latent import learn_latent_actions
from lam_jax.demo.material import Material
from lam_jax.demo.results import collect, write_results
from lam_jax.demo.settings import DEFAULT_ALGORITHMS, DemoConfig
from lam_jax.demo.tasks import TaskRun
from lam_jax.evaluation.codes import probe_codes
from lam_jax.hosts.consistency import code_hash, files_hash, require_consistent, require_consistent_weights, versions
from lam_jax.latent.agent import Agent
from lam_jax.parallel.multihost import is_first
from lam_jax.parallel.processes import whole_mesh
from lam_jax.report.report import write_report
from lam_jax.report.tables import summary_tables
from lam_jax.runs.run import Run, fingerprint
from lam_jax.scenes.caption_scores import caption_scores

SPACES = ("latent", "token")


def run_demo(
    out: Path,
    *,
    seed: int = 0,
    preset: str = "tiny",
    tasks: Sequence[str] = ("role_play", "help"),
    algorithm: str | None = None,
    config: DemoConfig | None = None,
    mesh: tuple[int, int, int] = (1, 1, 1),
    save_every: int = 0,
    profile: str | None = None,
) -> dict[str, Any]:
    """Runs or resumes the demo in `out` and returns its results, on the first process.

    Args:
        out: run folder.
        seed, preset, tasks: see `DemoConfig`.
        algorithm: RL algorithm of all tasks; None: each task's default.
        config: everything at once, instead of the settings above.
        mesh: data, fsdp, tensor; all devices of all processes where there are several. A run may be resumed on another.
        save_every: optimiser updates between two checkpoints inside a phase; 0: only when the run is asked to stop.
        profile: phase of which a few steps are traced.

    Raises:
        LamJaxError: see `lam_jax.errors`.
    """
    algorithms = dict.fromkeys(tasks, algorithm) if algorithm else {t: DEFAULT_ALGORITHMS[t] for t in tasks}
    config = config or DemoConfig(seed=seed, preset=preset, tasks=tuple(tasks), algorithms=algorithms)
    require_consistent({"code": code_hash(), "versions": versions(), "configuration": fingerprint(config)})
    devices = whole_mesh(mesh)
    with Run(out, config, save_every=save_every, profile=profile) as run:
        progress = run.progress
        opened: list[Material] = []

        def open_material():
            opened.append(Material.open(config, run.folder / "data", devices))
            return None, {}

        run.phase("data", open_material)
        material = opened[0] if opened else Material.open(config, run.folder / "data", devices)
        agent = material.base_agent()
        require_consistent({"data": files_hash(material.folder)})
        require_consistent_weights(agent)
        base = run.phase("base_model", lambda: (None, _base_scores(material, agent))).record
        agent = learn_latent_actions(run, material, agent)
        probed = run.phase("codes", lambda: (None, probe(material, agent))).record
        scores: dict[tuple[str, str, str], dict[str, Any]] = {}
        speed: list[dict[str, Any]] = []
        after_sft: list[float] = []
        for task in config.tasks:
            for space in SPACES:
                job = TaskRun(run, material, task, space, agent)
                job.fine_tune()
                if space == "latent":
                    after_sft.append(control_after_sft(run, job))
                scores[task, space, "sft"] = job.score("sft")
                job.reinforce()
                scores[task, space, "rl"] = job.score("rl")
                speed.append(job.speed)
        latent = probed | {"random_action_kl_after_sft": min(after_sft)}
        results: dict[str, Any] = {}
        if is_first():
            results = collect(run, material, base, latent, scores, speed)
            write_results(run.folder, results)
        report = run.phase("report", lambda: (None, {"path": write_report(run.folder).name if is_first() else ""}))
        for table in summary_tables(results) if progress.enabled else ():
            progress.console.print(table)
        progress.say(f"report: {run.folder / report.record['path']}")
        return results


def _base_scores(material: Material, agent: Agent) -> dict[str, Any]:
    examples = material.examples("paired", "caption_test")
    chats, prompts = material.chats["paired"], material.prompts["paired"]
    return dataclasses.asdict(caption_scores(agent.backbone, examples, chats, prompts, material.tokenizer))


def probe(material: Material, agent: Agent) -> dict[str, Any]:
    """Codebook health and the causal test after stage 4, for image-text and text-only rows."""
    reading, key = material.config.method.acting, jax.random.key(material.config.seed)
    found = {}
    for name, source in (("image_text", "paired"), ("text_only", "text_only")):
        batches = [c.batch for c in in_order(material.examples(source, "test"), material.chats[source], 32)]
        found[name] = probe_codes(agent, batches, key, reading)
    paired = found["image_text"]
    return {
        "usage": paired.pop("usage"),
        "usage_text_only": found["text_only"].pop("usage"),
        "random_action_kl_after_stage4": min(f["random_action_kl"] for f in found.values()),
        "cloning_accuracy": paired["cloning_accuracy"],
        "majority_share": paired["top_share"],
        **found,
    }


def control_after_sft(run: Run, job: TaskRun) -> float:
    """The causal test on the task's validation rows after SFT."""

    def measure():
        material = job.material
        collated = in_order(material.examples(job.task, "val"), material.chats[job.task], 32)
        batches = [c.batch.replace(valid=c.batch.valid & c.batch.response) for c in collated]
        found = probe_codes(job.agent, batches, jax.random.key(material.config.seed), material.config.method.acting)
        return None, {"random_action_kl": found["random_action_kl"]}

    return run.phase(f"control_{job.task}", measure).record["random_action_kl"]
