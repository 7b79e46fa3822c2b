"""Whatever stands in a row, a reader gives a row that can be trained on, or counts it; and reads no file elsewhere."""

import contextlib
import functools
import json
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lam_jax.corpora import cc12m, llava_next, n24news, pretraining, texts, wikiweb2m
from lam_jax.corpora.build import made_record
from lam_jax.corpora.pictures import PictureError
from lam_jax.data.readers import Drops
from lam_jax.data.schemas import Where
from lam_jax.tasks.mmrole import KINDS, mmrole_examples, process_row
from lam_jax.tasks.pcogalign import pcogalign_examples, usable_rows
from tests.corpora.made import picture

WHERE = Where("rows.json", 3)
NAMES = st.sampled_from(
    ["a.jpg", "gone.jpg", "/etc/passwd", "../a.jpg", "x/../../a.jpg", "", "\0", "\ud800", "a" * 300]
)
TEXTS = st.one_of(
    st.sampled_from(["human", "gpt", "Bo", "Ann", "user", "<image>", " ", "\ud800"]), st.text(max_size=8), NAMES
)
PLAIN = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=True), TEXTS)
ANY = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6
)
TURN = st.one_of(
    ANY,
    st.fixed_dictionaries({"from": TEXTS, "value": TEXTS}),
    st.fixed_dictionaries({"role": TEXTS, "value": PLAIN}),
    st.fixed_dictionaries({"role": TEXTS, "content": TEXTS}),
)
KEYS = {
    "id": PLAIN,
    "image": st.one_of(NAMES, NAMES, ANY, st.fixed_dictionaries({"file_path": st.one_of(NAMES, PLAIN)})),
    "images": st.one_of(st.lists(NAMES, max_size=2), ANY),
    "image_id": st.one_of(st.just("a"), NAMES, PLAIN),
    "conversations": st.one_of(st.lists(TURN, max_size=4), ANY),
    "messages": st.one_of(st.lists(TURN, max_size=4), ANY),
    "context": st.one_of(st.lists(TURN, max_size=3), ANY),
    "overall_preference": PLAIN,
    "individual_RoleSet": st.one_of(st.just({"Home": "Parent"}), ANY),
    "eval_info": st.one_of(st.just({"ImageDesc": "x", "location": "y", "EvalHelp": "z"}), ANY),
    "facts": ANY,
    **dict.fromkeys(("text", "headline", "abstract", "body", "caption", "response1", "response2", "query"), PLAIN),
    "golden_response": PLAIN,
    "page_title": PLAIN,
    "page_url": PLAIN,
    **{
        f"section_{name}": st.one_of(st.lists(st.one_of(TEXTS, st.lists(TEXTS, max_size=2)), max_size=2), ANY)
        for name in ("title", "text", "image_url", "image_captions")
    },
}
CHAT = [{"from": "human", "value": "<image> Q"}, {"from": "gpt", "value": "A"}]
VALID = {
    "id": "x",
    "image": "a.jpg",
    "image_id": "a",
    "conversations": CHAT,
    "context": [{"role": "user", "content": "Q"}],
    "overall_preference": 1,
    "individual_RoleSet": {"Home": "Parent"},
    "eval_info": {"ImageDesc": "x", "location": "y", "EvalHelp": "z"},
    **dict.fromkeys(("text", "headline", "abstract", "response1", "response2", "query", "golden_response"), "text"),
    "page_title": "title",
    "section_title": ["s"],
    "section_text": ["t"],
    "section_image_url": [["https://h/a.jpg"]],
    "section_image_captions": [["c"]],
}
# Odd throughout, or odd in one place.
ONE = st.sampled_from([*sorted(KEYS), *["image"] * 20]).flatmap(
    lambda key: KEYS[key].map(lambda value: VALID | {key: value})
)
ROW = st.one_of(ANY, st.fixed_dictionaries({}, optional=KEYS), st.fixed_dictionaries(KEYS), ONE, ONE)


def readers(root: Path):
    """(name, rows that it makes of a record)."""

    def counted(make):
        return lambda record, drops: [r for r, _ in pretraining.counted([(WHERE, record)], make, drops)]

    def pages(record, drops):
        made = ((WHERE, p) for p in wikiweb2m._pictures(record, WHERE, drops))
        return [r for r, _ in pretraining.counted(made, functools.partial(wikiweb2m._row, root=root), drops)]

    yield "llava", counted(functools.partial(llava_next._row, root=root, table=False))
    yield "llava table", counted(functools.partial(llava_next._row, root=root, table=True))
    yield "n24news", counted(functools.partial(n24news._row, root=root))
    yield "helpsteer3", counted(texts._preferred)
    yield "slimpajama", counted(functools.partial(texts._plain, folder="f"))
    yield "wikiweb2m", pages


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(record=ROW)
def test_readers(record, tmp_path_factory):
    root = tmp_path_factory.getbasetemp() / "fuzz" / "root"
    root.mkdir(parents=True, exist_ok=True)
    (root / "a.jpg").write_bytes(picture())
    (root.parent / "a.jpg").write_bytes(b"outside")
    for name, read in readers(root):
        drops = Drops()
        rows = read(record, drops)
        assert rows or drops.total, f"{name}: a silent drop"
        for row in rows:
            for image in row.get("images", ()):
                assert isinstance(image, bytes) or image == root / "a.jpg", name
            made = made_record(row, WHERE, None)
            assert isinstance(made, PictureError) or json.dumps(made[0]).encode()
    profiles = {"Bo": {"introduction": "x"}, "gpt": {"introduction": "x"}, "Ann": {}}
    for kind in KINDS:
        drops = Drops()
        done = process_row(record, WHERE, profiles, root, drops, kind)
        assert (done is None) == (drops.total == 1)
        if done is not None:
            assert mmrole_examples(done, WHERE, root)
    drops = Drops()
    kept = usable_rows([(record, WHERE)], root, drops)
    assert len(kept) + drops.total == 1
    assert all(pcogalign_examples(row, where, root) for row, where in kept)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=300), st.binary(max_size=300))
def test_captions(text, told):
    for group in ({"txt": text}, {"json": told}, {"json": b'{"caption": ' + told + b"}"}):
        with contextlib.suppress(cc12m.Odd):
            assert isinstance(cc12m._caption(group), str)
