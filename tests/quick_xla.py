"""XLA with few of its optimisations and its older emitter of fusions, for tests: they compile much and compute little.

On the programs of stages 1 to 3 of the demo the compiler then takes a seventh of its time (12 s for 88 s, one core).
"""

QUICK_FLAGS = "--xla_cpu_use_fusion_emitters=false"
QUICK_ENVIRONMENT = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": QUICK_FLAGS}
