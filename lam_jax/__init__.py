"""Latent-action reinforcement learning of vision-language agents in JAX (arXiv 2601.07516).

The names below are imported when they are first asked for; `__init__.pyi` tells type checkers where they come from.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_MODULES = {
    "recipe": ("Recipe",),
    "tasks.task": ("ScoredSplit", "Task"),
    "tasks.episodes": ("EpisodeTask",),
    "tasks.mmrole": ("MMRoleRows",),
    "tasks.pcogalign": ("PCogAlignRows",),
    "environments.environment": ("Environment", "EnvironmentStep", "Observation"),
    "environments.jax_games": ("JaxEnvironment", "gymnax_game"),
    "scenes.maze_rows": ("maze_task",),
    "scenes.maze_steps": ("maze_steps_task",),
    "corpora.built": ("BuiltRows",),
    "data.layouts": ("RowParser",),
    "data.mispaired": ("MispairedRows",),
    "data.sources": ("JsonRows", "RowSource"),
    "data.schemas": ("Example",),
    "rewards.functions": ("FileReward", "FunctionReward", "WeightedReward"),
    "rewards.reward": ("Reward",),
    "rewards.verdict": ("Verdict",),
    "rewards.dimensions": ("JudgeRubric",),
    "rewards.judge": ("JudgeConfig", "JudgeReward"),
    "rewards.embedding": ("SimilarityReward", "load_embedder"),
    "rl": ("ALGORITHMS", "Algorithm"),
    "train.method": ("METHODS", "Method"),
    "agents.chat": ("Chat",),
    "agents.chat_turns": ("Controls",),
    "agents.atlas": ("code_atlas",),
    "agents.evaluate": ("evaluate_agent",),
    "agents.load": ("load",),
    "agents.loaded": ("LoadedAgent",),
    "agents.steer": ("steer_agent",),
    "serving.server": ("Server",),
    "serving.settings": ("ServeSettings",),
    "evaluation.protocol": ("EvaluationProtocol",),
    "runs.watching": ("Watching",),
    "grid.grid": ("Grid",),
    "grid.run": ("run_grid",),
    "pipeline": ("evaluate", "fine_tune", "learn_actions", "open_run", "reinforce", "run_recipe"),
}
_WHERE = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'lam_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"lam_jax.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
