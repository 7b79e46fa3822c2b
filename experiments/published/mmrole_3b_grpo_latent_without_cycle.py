"""MMRole, Qwen2.5-VL-3B, GRPO, latent actions, without cycle loss.

The paper: ID .921, OOD .878. On one host:

    experiments/launch/one_host.sh \
        lam-jax train experiments/published/mmrole_3b_grpo_latent_without_cycle.py \
        --model Qwen2.5-VL-3B-Instruct --raw MMRole --images MMRole/images --paired paired.json \
        --text text.json --judge http://localhost:8000/v1 --judge-model JUDGE --evaluation-judge-model OTHER \
        --out runs/mmrole_3b_grpo_latent_without_cycle --micro-batches 4 --sft-micro-batches 4

On a v5e-16 slice, four hosts:

    python -m experiments.launch.hosts --kind tpu --hosts h0 h1 h2 h3 --folder /shared/lam_jax -- \
        lam-jax train experiments/published/mmrole_3b_grpo_latent_without_cycle.py \
        --model Qwen2.5-VL-3B-Instruct --raw MMRole --images MMRole/images --paired paired.json \
        --text text.json --judge http://localhost:8000/v1 --judge-model JUDGE --evaluation-judge-model OTHER \
        --out runs/mmrole_3b_grpo_latent_without_cycle

On a node of eight GPUs:

    sbatch --nodes 1 experiments/launch/slurm.sbatch \
        lam-jax train experiments/published/mmrole_3b_grpo_latent_without_cycle.py \
        --model Qwen2.5-VL-3B-Instruct --raw MMRole --images MMRole/images --paired paired.json \
        --text text.json --judge http://localhost:8000/v1 --judge-model JUDGE --evaluation-judge-model OTHER \
        --out runs/mmrole_3b_grpo_latent_without_cycle
"""

from lam_jax.recipes.published import experiment

recipe = experiment("mmrole", "3b", "grpo", "latent", part="cycle")
