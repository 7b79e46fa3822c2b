"""Games that answer back: the protocol of an environment, and environments of JAX libraries behind it."""
