"""The demo's recipe with both conversations in the paper's two spaces, which many tests start from."""

from lam_jax.recipes import demo
from lam_jax.train.spaces import PAPER_SPACES

TASKS = ("role_play", "help")
BOTH = demo.recipe(task=TASKS, space=PAPER_SPACES)
HELP = demo.recipe(task=("help",), space=PAPER_SPACES)
