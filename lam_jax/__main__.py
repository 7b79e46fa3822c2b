"""`python -m lam_jax` is the `lam-jax` command."""

import sys

from lam_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
