from lam_jax.agents.load import load as load
from lam_jax.agents.loaded import LoadedAgent as LoadedAgent
from lam_jax.data.schemas import Example as Example
from lam_jax.data.sources import JsonRows as JsonRows
from lam_jax.data.sources import RowSource as RowSource
from lam_jax.pipeline import evaluate as evaluate
from lam_jax.pipeline import fine_tune as fine_tune
from lam_jax.pipeline import learn_actions as learn_actions
from lam_jax.pipeline import open_run as open_run
from lam_jax.pipeline import reinforce as reinforce
from lam_jax.pipeline import run_recipe as run_recipe
from lam_jax.recipe import Recipe as Recipe
from lam_jax.rewards.embedding import SimilarityReward as SimilarityReward
from lam_jax.rewards.functions import FileReward as FileReward
from lam_jax.rewards.functions import FunctionReward as FunctionReward
from lam_jax.rewards.functions import WeightedReward as WeightedReward
from lam_jax.rewards.judge import JudgeConfig as JudgeConfig
from lam_jax.rewards.judge import JudgeReward as JudgeReward
from lam_jax.rewards.reward import Reward as Reward
from lam_jax.rewards.verdict import Verdict as Verdict
from lam_jax.rl import ALGORITHMS as ALGORITHMS
from lam_jax.rl import Algorithm as Algorithm
from lam_jax.tasks.task import ScoredSplit as ScoredSplit
from lam_jax.tasks.task import Task as Task
from lam_jax.train.method import METHODS as METHODS
from lam_jax.train.method import Method as Method

__version__: str
