"""Settings that every test runs under; they have to be made before jax is imported."""

import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Eight devices on one host, so that sharding is tested everywhere; ordinary tests use the first (measured: no slower).
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import jax
import pytest
from jaxtyping import install_import_hook

from tests import typechecker

# Compiled programs are kept between runs. The size limit also turns on the cache's file lock, which two workers need.
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parent.parent / ".jax_cache"))
jax.config.update("jax_compilation_cache_max_size", 2 * 2**30)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
# Strict promotion and explicit rank promotion catch the silent float64 and the silent broadcast.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Array shapes and types in signatures are checked at every call.
install_import_hook("lam_jax", f"{typechecker.__name__}.check")


@pytest.fixture(scope="module")
def quick_compilation():
    """XLA without most optimisations: for modules that compile much and compute little (measured: half the time)."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def key() -> jax.Array:
    """A PRNG key; tests that need several split it."""
    return jax.random.key(0)
