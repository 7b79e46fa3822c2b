import json

import pytest

from lam_jax.data.collator import Collator, CollatorConfig
from lam_jax.data.loader import Loader, LoaderConfig, in_order
from lam_jax.data.schemas import Example
from lam_jax.models.processor import ImageSettings


def rows(count):
    chat = ({"role": "user", "content": "How many?"}, {"role": "assistant", "content": "Two."})
    return [Example(str(i), chat) for i in range(count)]


def keep(examples):
    return [example.id for example in examples]


def ids(loader, batches):
    return [next(loader) for _ in range(batches)]


def flat(batches):
    return [name for batch in batches for name in batch]


@pytest.mark.parametrize("prefetch", [0, 2])
def test_each_epoch_holds_every_row_once_in_an_order_of_its_own(prefetch):
    seen = flat(ids(Loader(rows(12), keep, LoaderConfig(4, seed=3, prefetch=prefetch)), 6))
    first, second = seen[:12], seen[12:]
    assert sorted(first, key=int) == sorted(second, key=int) == [str(i) for i in range(12)]
    assert first != second


def test_order_depends_on_the_seed_only():
    one, same, other = (
        ids(Loader(rows(40), keep, LoaderConfig(8, seed=s, prefetch=p)), 5) for s, p in [(1, 0), (1, 3), (2, 3)]
    )
    assert one == same != other


def test_batches_go_on_over_the_end_of_an_epoch():
    batches = ids(Loader(rows(5), keep, LoaderConfig(3)), 10)
    assert all(len(batch) == 3 for batch in batches)
    assert all(flat(batches).count(str(i)) == 6 for i in range(5))


@pytest.mark.parametrize("prefetch", [0, 3])
@pytest.mark.parametrize("done", [0, 1, 4])
def test_resumed_equals_uninterrupted(prefetch, done):
    config = LoaderConfig(4, seed=5, prefetch=prefetch)
    loader = Loader(rows(10), keep, config)
    ids(loader, done)
    state = json.loads(json.dumps(loader.get_state()))
    expected = ids(loader, 7)
    resumed = Loader(rows(10), keep, config)
    resumed.set_state(state)
    assert ids(resumed, 7) == expected
    loader.set_state(state)
    assert ids(loader, 7) == expected


@pytest.mark.parametrize("shares", [[(0, 1, 2), (3, 4, 5)], [(0, 3), (1, 4), (2, 5)], [(0, 1, 2, 3, 4, 5), (5, 1)]])
def test_shares_make_up_the_same_global_batches(shares):
    whole = ids(Loader(rows(36), keep, LoaderConfig(6, seed=1)), 9)
    for share in shares:
        part = ids(Loader(rows(36), keep, LoaderConfig(6, seed=1, rows=share)), 9)
        assert part == [[batch[row] for row in share] for batch in whole]


def test_position_is_that_of_the_global_batches():
    one = Loader(rows(36), keep, LoaderConfig(6, seed=1))
    ids(one, 4)
    half = Loader(rows(36), keep, LoaderConfig(6, seed=1, rows=(3, 4, 5)))
    half.set_state(one.get_state())
    assert next(half) == next(one)[3:]


def test_a_state_of_other_data_is_refused():
    state = Loader(rows(10), keep, LoaderConfig(4, seed=5)).get_state()
    with pytest.raises(ValueError, match="rows 10; expected 11"):
        Loader(rows(11), keep, LoaderConfig(4, seed=5)).set_state(state)
    with pytest.raises(ValueError, match="seed 5; expected 6"):
        Loader(rows(10), keep, LoaderConfig(4, seed=6)).set_state(state)


def test_batches_of_the_collator_come_through(encoder):
    collate = Collator(encoder, CollatorConfig((64,), image=ImageSettings(size=(56, 56))))
    out = next(Loader(rows(6), collate, LoaderConfig(4, rows=(2, 3))))
    assert out.batch.tokens.shape == (2, 64)
    assert len(out.examples) == 2


def test_errors_of_the_collator_reach_the_caller(encoder):
    def broken(examples):
        raise ValueError("row 7 is bad")

    with pytest.raises(ValueError, match="row 7 is bad"):
        next(Loader(rows(6), broken, LoaderConfig(2)))


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"batch_size": 3, "rows": ()},
        {"batch_size": 2, "rows": (1, 2)},
        {"batch_size": 2, "prefetch": -1},
    ],
)
def test_bad_settings_are_refused(options):
    with pytest.raises(ValueError, match="LoaderConfig"):
        LoaderConfig(**options)


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="no rows"):
        Loader([], keep, LoaderConfig(2))


def test_one_pass_in_order_fills_the_last_batch(encoder):
    collate = Collator(encoder, CollatorConfig((64,), image=ImageSettings(size=(56, 56))))
    batches = list(in_order(rows(5), collate, 2))
    assert [[example.id for example in out.examples] for out in batches] == [["0", "1"], ["2", "3"], ["4"]]
    assert [out.batch.tokens.shape for out in batches] == [(2, 64)] * 3
    assert batches[-1].batch.mask.any(axis=1).tolist() == [True, False]
