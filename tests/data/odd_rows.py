"""Rows that nobody would write, for hypothesis: good ones with keys dropped, renamed, added and values replaced."""

import base64
import copy
import io
import struct
import zlib

from hypothesis import strategies as st
from PIL import Image


def png(size: tuple[int, int]) -> bytes:
    out = io.BytesIO()
    Image.new("L", size, 7).save(out, "PNG")
    return out.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says that it is huge."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )


SMALL = png((30, 20))
FILES = {"a.png": SMALL, "thin.png": png((4000, 1)), "bomb.png": bomb(60_000, 60_000), "zero.png": bomb(0, 5)}


SURROGATE = "half \ud800"
TEXTS = [
    "",
    " ",
    "a",
    "<image>",
    "What is it?",
    "<image>\nWhat?",
    "a<image>b<image>",
    "<|im_end|>",
    SURROGATE,
    "\0",
    "é" * 300,
]
PATHS = [
    *FILES,
    *("empty.png", "text.png", "folder", "gone.png", "../canary.png", "folder/../../canary.png", "link.png"),
    *("up/canary.png", "up", "/etc/passwd", "file:///etc/passwd", "file://h/x", "http://h/a.png", "", ".", "..", "\0"),
    *("x" * 5000, "data:image/png;base64,AAAA", "data:,", SURROGATE, base64.b64encode(SMALL).decode(), "A" * 80, "~/x"),
]
scalars = st.one_of(
    st.sampled_from([None, True, False, 0, -1, 10**30, 0.5, float("nan"), b"", b"x", SMALL, *TEXTS, *PATHS]),
    st.text(max_size=8),
    st.integers(),
    st.integers(4400, 5000).map(lambda digits: 10**digits),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["role", "content", "type", "bytes", "x"]), inner)
    ),
    max_leaves=4,
)
pictures = st.one_of(
    st.sampled_from(
        [SMALL, b"", b"junk", FILES["bomb.png"], {"bytes": SMALL, "path": None}, {"path": "../canary.png"}]
    ),
    st.sampled_from(PATHS),
    values,
)
roles = st.one_of(st.sampled_from(["user", "user", "assistant", "system", "human", "gpt", "bot"]), scalars)
texts = st.one_of(st.sampled_from(TEXTS), st.text(max_size=12))
parts = st.lists(
    st.one_of(
        st.builds(lambda text: {"type": "text", "text": text}, texts),
        st.builds(lambda picture: {"type": "image", "image": picture}, pictures),
        st.just({"type": "image"}),
        values,
    ),
    max_size=3,
)
messages = st.one_of(
    st.builds(lambda role, content: {"role": role, "content": content}, roles, st.one_of(texts, texts, parts)),
    st.builds(lambda role, content: {"from": role, "value": content}, roles, texts),
)
chats = st.one_of(st.lists(messages, max_size=4), st.integers(1, 60).map(lambda n: [USER, BOT] * n), values)
USER, BOT = {"role": "user", "content": "<image> What?"}, {"role": "assistant", "content": "That."}
SEEDS = [
    {"id": "r", "image": "a.png", "messages": [USER, BOT], "instance_type": "x", "facts": {"a": 1}},
    {"id": 1, "images": ["a.png"], "messages": [BOT, USER, BOT]},
    {"id": 1, "messages": [{"role": "user", "content": "a"}, BOT]},
    {
        "id": "l",
        "image": "a.png",
        "conversations": [{"from": "human", "value": "<image>\nA"}, {"from": "gpt", "value": "B"}],
    },
    {"prompt": "<image>A", "completion": "B", "images": [{"bytes": SMALL, "path": None}]},
    {"prompt": [{"role": "user", "content": [{"type": "image"}]}], "answer": "B", "image": "a.png", "topic": "t"},
    {"problem": "A", "answer": 3, "images": []},
]
PROFILE = {"introduction": "A.", "personality": "K."}
MMROLE = {
    "id": "m",
    "image_path": "a.png",
    "conversations": [USER, BOT, USER, BOT],
    "original_roles": ["human", "Bo", "human", "Bo"],
    "character_role": "Bo",
    "character_profile": {"Bo": PROFILE},
}
RAW = {"id": 1, "image": "a.png", "conversations": [{"from": "human", "value": "A"}, {"from": "Bo", "value": "B"}]}
PCOG = {
    "individual_RoleSet": {"home": "cook"},
    "query": "A",
    "golden_response": "B",
    "image": {"file_path": "a.png"},
    "eval_info": {"ImageDesc": "d", "location": "home", "EvalHelp": "e"},
}


def paths_of(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from paths_of(item, (*path, key))


@st.composite
def rows(draw, seeds):
    """A good row with up to four changes: keys dropped, renamed or added, values replaced."""
    row = copy.deepcopy(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 4))):
        paths = [path for path in paths_of(row) if path]
        if not paths:
            break
        *parents, key = draw(st.sampled_from(paths))
        parent = row
        for name in parents:
            parent = parent[name]
        change = draw(st.sampled_from(["drop", "value", "like", "like", "rename", "add"]))
        if change == "drop":
            del parent[key]
        elif change == "value":
            parent[key] = copy.deepcopy(draw(values))
        elif change == "like":
            kind = {
                "image": pictures,
                "image_path": pictures,
                "file_path": pictures,
                "images": st.lists(pictures, max_size=3),
            }
            chat = dict.fromkeys(("messages", "conversations", "prompt", "completion"), chats)
            parent[key] = copy.deepcopy(
                draw(
                    (kind | chat | {"role": roles, "from": roles}).get(
                        key, texts if isinstance(parent, dict) else pictures
                    )
                )
            )
        elif isinstance(parent, dict):
            name = draw(
                st.sampled_from(
                    ["img", "Image", "image", "images", "messages", "prompt", "answer", "id", "x", "", "value"]
                )
            )
            parent[name] = parent.pop(key) if change == "rename" else copy.deepcopy(draw(values))
    return row if draw(st.integers(0, 40)) else copy.deepcopy(draw(values))
