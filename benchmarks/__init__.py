"""The suite behind the README's figures: `python -m benchmarks.NAME --preset P --json FILE`, `make bench` for all."""
