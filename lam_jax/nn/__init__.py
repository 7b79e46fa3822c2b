"""Neural-network parts that know nothing of Qwen, latent actions or meshes: jax and flax.struct only."""
