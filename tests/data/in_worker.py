"""What tests run in the workers that decode pictures; it imports no more than those do."""

import os
import signal
import sys

from lam_jax.data.workers import decode_picture


def kill_worker(picture, settings):
    """Dies as of a fault in a decoder, for the row 0 alone."""
    if picture.where.row == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return decode_picture(picture, settings)


def has_jax(picture, settings):
    """Whether the worker imported jax to decode."""
    decode_picture(picture, settings)
    return "jax" in sys.modules
