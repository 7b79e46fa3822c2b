"""MMRole, a whole run from its raw files, with a judge.

    lam-jax train mmrole --model Qwen2.5-VL-3B-Instruct --raw MMRole --images MMRole/images --paired paired.json \
        --text text.json --judge http://localhost:8000/v1 --judge-model JUDGE --evaluation-judge-model OTHER \
        --out runs/mmrole

The settings are the released ones, but for the length of prompts: the paper's 1,024 tokens would cut 87 % of MMRole's
RL prompts (median 2,178, longest 2,820, with the published tokenizer and 150 tokens of picture). `--prompt-lengths`
changes the buckets; the recipe `paper` keeps 1,024. docs/real_data.md has folders, files and errors.
"""

from lam_jax.recipes.real import Benchmark, bound, whole
from lam_jax.recipes.settings import Lengths, mmrole

MMROLE = Benchmark("MMRole", mmrole, Lengths(chat=(3072, 4096), prompt=(1536, 2304, 3072), answer=1024))

recipe = bound(
    whole,
    "MMRole from its raw files, with a judge and the released settings; room for the real prompts.",
    benchmark=MMROLE,
)
