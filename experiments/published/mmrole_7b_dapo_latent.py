"""MMRole, Qwen2.5-VL-7B, DAPO, latent actions.

The paper: none in our notes. On one host:

    experiments/launch/one_host.sh \
        lam-jax train experiments/published/mmrole_7b_dapo_latent.py \
        --model Qwen2.5-VL-7B-Instruct --raw MMRole --images MMRole/images --paired paired.json \
        --text text.json --judge http://localhost:8000/v1 --judge-model JUDGE --evaluation-judge-model OTHER \
        --out runs/mmrole_7b_dapo_latent --micro-batches 4 --sft-micro-batches 4

On a v5e-16 slice, four hosts:

    python -m experiments.launch.hosts --kind tpu --hosts h0 h1 h2 h3 --folder /shared/lam_jax -- \
        lam-jax train experiments/published/mmrole_7b_dapo_latent.py \
        --model Qwen2.5-VL-7B-Instruct --raw MMRole --images MMRole/images --paired paired.json \
        --text text.json --judge http://localhost:8000/v1 --judge-model JUDGE --evaluation-judge-model OTHER \
        --out runs/mmrole_7b_dapo_latent

On a node of eight GPUs:

    sbatch --nodes 1 experiments/launch/slurm.sbatch \
        lam-jax train experiments/published/mmrole_7b_dapo_latent.py \
        --model Qwen2.5-VL-7B-Instruct --raw MMRole --images MMRole/images --paired paired.json \
        --text text.json --judge http://localhost:8000/v1 --judge-model JUDGE --evaluation-judge-model OTHER \
        --out runs/mmrole_7b_dapo_latent
"""

from lam_jax.recipes.published import experiment

recipe = experiment("mmrole", "7b", "dapo", "latent")
