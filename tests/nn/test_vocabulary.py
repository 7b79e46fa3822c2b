import jax
import jax.numpy as jnp
import numpy as np

from lam_jax.nn.vocabulary import arg_max, expectation, occurring


def test_arg_max_takes_the_earlier_of_equals():
    values = jnp.array([[1.0, 3.0, 3.0, 2.0], [-jnp.inf, -jnp.inf, -jnp.inf, -jnp.inf], [-5.0, -1e30, -5.0, -7.0]])
    np.testing.assert_array_equal(arg_max(values), [1, 0, 0])


def test_arg_max_is_that_of_numpy():
    values = jax.random.normal(jax.random.key(0), (2, 5, 333))
    np.testing.assert_array_equal(arg_max(values), np.argmax(values, axis=-1))


def test_arg_max_of_nan_is_an_index():
    """Weights that diverged must end in a message of the training loop, not in a look-up outside the table."""
    index = np.asarray(arg_max(jnp.array([[1.0, jnp.nan, 2.0], [jnp.nan, jnp.nan, jnp.nan]])))
    assert ((index >= 0) & (index < 3)).all()


def test_expectation_by_hand():
    values = jnp.array([2.0, 4.0, -1e30])
    logps = jnp.log(jnp.array([[0.25, 0.75, 0.0], [1.0, 0.0, 0.0]])).clip(min=-1e30)  # as of actions that were cut
    np.testing.assert_allclose(expectation(logps, jnp.stack([values, values])), [3.5, 2.0], rtol=1e-6)


def test_tokens_under_the_mask_occur():
    """A token that stands both inside and outside the mask occurs."""
    tokens = jnp.array([[3, 1, 3], [0, 2, 2]])
    mask = jnp.array([[False, True, True], [True, False, False]])
    np.testing.assert_array_equal(occurring(tokens, mask, 4), [[False, True, False, True], [True, False, False, False]])
