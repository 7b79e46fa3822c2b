"""What the ablations do to rows: noise on pictures, rows of some tasks alone; which rows, how much, and what stays."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from experiments.noisy_pictures import NoisyRows
from experiments.only_tasks import OnlyTasks
from lam_jax.data.schemas import Example, Message


@dataclasses.dataclass(frozen=True)
class Made:
    """Eight rows with a grey picture, two without one."""

    def prepare(self, folder):
        pass

    def read(self, folder, split):
        out = io.BytesIO()
        Image.new("RGB", (40, 30), (128, 128, 128)).save(out, "PNG")
        chat: tuple[Message, ...] = ({"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"})
        return [Example(f"{split}{i}", chat, (out.getvalue(),) if i < 8 else ()) for i in range(10)]

    def shrunk(self, rows):
        return self

    def content(self):
        return "made"


def pixels(example):
    return np.asarray(Image.open(io.BytesIO(example.images[0]))).astype(float)


def test_half_of_the_pictures_get_noise_of_the_size_that_is_asked_for(tmp_path):
    source = NoisyRows(Made(), 0.5, 20.0)
    rows, plain = source.read(tmp_path, "train"), Made().read(tmp_path, "train")
    changed = [index for index in range(8) if rows[index].images != plain[index].images]
    assert len(changed) == 4
    noise = np.stack([pixels(rows[index]) - 128 for index in changed])
    assert noise.mean() == pytest.approx(0, abs=1)
    assert noise.std() == pytest.approx(20, rel=0.05)
    assert not np.array_equal(noise[0], noise[1])
    assert [(row.id, row.messages, row.places) for row in rows] == [(row.id, row.messages, row.places) for row in plain]
    assert rows == source.read(tmp_path, "train")
    assert source.read(tmp_path, "test") == Made().read(tmp_path, "test")


def test_what_is_done_is_part_of_the_content():
    one = NoisyRows(Made(), 0.5, 20.0)
    others = [dataclasses.replace(one, **change) for change in ({"share": 1.0}, {"deviation": 21.0}, {"seed": 1})]
    assert len({each.content() for each in (one, *others)}) == 4
    assert one.shrunk(3).source == Made()


def test_rows_of_one_task_are_kept_in_one_split(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Tasks(Made):
        def read(self, folder, split):
            named = ("dialogue", "help", "dialogue")
            return [dataclasses.replace(x, facts={"task": t}) for x, t in zip(super().read(folder, split), named)]

    source = OnlyTasks(Tasks(), ("dialogue",))
    assert [row.id for row in source.read(tmp_path, "train")] == ["train0", "train2"]
    assert [row.id for row in source.read(tmp_path, "test")] == ["test0", "test1", "test2"]
    assert source.content() != OnlyTasks(Tasks(), ("help",)).content()
    with pytest.raises(ValueError, match="Row train0 of 'train' has no facts with a task"):
        OnlyTasks(Made(), ("dialogue",)).read(tmp_path, "train")
