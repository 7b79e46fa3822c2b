"""XLA with few of its optimisations and its older emitter of fusions, for tests: they compile much and compute little.

On the programs of stages 1 to 3 of the demo the compiler of jax 0.10 then takes a seventh of its time (12 s for 88 s,
one core). That of jax 0.12 has no older emitter, and a process that names a flag unknown to XLA is aborted.
"""

from importlib.metadata import version

QUICK_FLAGS = "--xla_cpu_use_fusion_emitters=false" if version("jaxlib").startswith("0.10.") else ""
QUICK_ENVIRONMENT = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": QUICK_FLAGS}
