"""PCogAlignBench, a whole run from its three files, with a judge.

    lam-jax train pcogalign --model Qwen2.5-VL-3B-Instruct --raw PCogAlignBench --images PCogAlignBench/images \
        --paired paired.json --text text.json --judge http://localhost:8000/v1 --judge-model JUDGE \
        --evaluation-judge-model OTHER --out runs/pcogalign

The settings are the released ones. Prompts get 512 tokens, as published, and 1,024 where one of a batch is longer;
`--prompt-lengths` changes that. docs/real_data.md has folders, files and errors.
"""

from lam_jax.recipes.real import Benchmark, bound, whole
from lam_jax.recipes.settings import Lengths, pcogalign

PCOGALIGN = Benchmark("PCogAlignBench", pcogalign, Lengths(chat=(2048, 4096), prompt=(512, 1024), answer=1024))

recipe = bound(
    whole,
    "PCogAlignBench from its three files, with a judge and the released settings.",
    benchmark=PCOGALIGN,
)
