"""Neural-network parts that know nothing of backbones, latent actions or meshes: jax and flax.struct only."""
