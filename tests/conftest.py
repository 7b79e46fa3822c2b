"""Settings that every test runs under; they have to be made before jax is imported."""

import gc
import os
from pathlib import Path

from tests.quick_xla import QUICK_ENVIRONMENT, QUICK_FLAGS

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Eight devices on one host, so that sharding is tested everywhere; ordinary tests use the first (measured: no slower).
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ |= {**QUICK_ENVIRONMENT, "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {QUICK_FLAGS}"}
# Compiled programs are kept between runs, also those of processes that tests start. The size limit turns on the cache's
# file lock, which two workers need.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(__file__).parent.parent / ".jax_cache")
os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = str(2 * 2**30)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"

import jax
import pytest
from jaxtyping import install_import_hook

from tests import typechecker

# Strict promotion and explicit rank promotion catch the silent float64 and the silent broadcast.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Array shapes and types in signatures are checked at every call.
install_import_hook("lam_jax", f"{typechecker.__name__}.check")


def pytest_configure() -> None:
    """XLA reads its flags when devices are first asked for, so they may come after the hook above."""
    from lam_jax.parallel.patience import patient_environment

    os.environ.update(patient_environment(os.environ))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first, or one of two workers ends with it alone."""
    items.sort(key=lambda item: not item.nodeid.startswith("tests/end_to_end/test_demo.py"))


# Of a process's memory mappings, of which Linux allows 65,530: every compiled program keeps some. A worker that went
# through the whole suite had more, and died of a segmentation fault where jax read a program from its cache.
MOST_MAPPINGS = 20_000


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Lets go of compiled programs after a module when there are many."""
    yield
    if mappings() > MOST_MAPPINGS:
        jax.clear_caches()
        gc.collect()


def mappings() -> int:
    """How many memory mappings this process has; 0 where the system does not tell."""
    maps = Path("/proc/self/maps")
    return maps.read_bytes().count(b"\n") if maps.exists() else 0


@pytest.fixture(scope="module")
def full_compilation():
    """XLA with its optimisations: for modules that hold two programs equal to the last digits."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def key() -> jax.Array:
    """A PRNG key; tests that need several split it."""
    return jax.random.key(0)


# After the import hook, or what these import would not be checked.
from tests.chat_fixtures import encoder, make_png, make_tokenizer, qwen_config, tokenizer  # noqa: E402, F401
