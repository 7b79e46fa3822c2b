"""PCogAlignBench, Qwen2.5-VL-3B, GRPO, latent actions, 256 codes.

The paper: none in our notes. On one host:

    experiments/launch/one_host.sh \
        lam-jax train experiments/published/pcogalign_3b_grpo_latent_codes_256.py \
        --model Qwen2.5-VL-3B-Instruct --raw PCogAlignBench --images PCogAlignBench/images --paired paired.json \
        --text text.json --judge http://localhost:8000/v1 --judge-model JUDGE --evaluation-judge-model OTHER \
        --out runs/pcogalign_3b_grpo_latent_codes_256 --micro-batches 4 --sft-micro-batches 4

On a v5e-16 slice, four hosts:

    python -m experiments.launch.hosts --kind tpu --hosts h0 h1 h2 h3 --folder /shared/lam_jax -- \
        lam-jax train experiments/published/pcogalign_3b_grpo_latent_codes_256.py \
        --model Qwen2.5-VL-3B-Instruct --raw PCogAlignBench --images PCogAlignBench/images --paired paired.json \
        --text text.json --judge http://localhost:8000/v1 --judge-model JUDGE --evaluation-judge-model OTHER \
        --out runs/pcogalign_3b_grpo_latent_codes_256

On a node of eight GPUs:

    sbatch --nodes 1 experiments/launch/slurm.sbatch \
        lam-jax train experiments/published/pcogalign_3b_grpo_latent_codes_256.py \
        --model Qwen2.5-VL-3B-Instruct --raw PCogAlignBench --images PCogAlignBench/images --paired paired.json \
        --text text.json --judge http://localhost:8000/v1 --judge-model JUDGE --evaluation-judge-model OTHER \
        --out runs/pcogalign_3b_grpo_latent_codes_256
"""

from lam_jax.recipes.published import experiment

recipe = experiment("pcogalign", "3b", "grpo", "latent", codes=256)
