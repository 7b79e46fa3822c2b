"""A small raw MMRole folder, and rows of PCogAlignBench."""

import json

PROFILE = {
    "introduction": "A wizard.",
    "personality": "Kind.",
    "experience": "Many years.",
    "relationship": "Friend of Bo.",
    "catchphrase": "By the stars!",
}


def dialogue(name, index, speaker="Ann Lee", key="from", image="a.png"):
    turns = [
        ("human", f"<image>\nWhat? {index}"),
        (speaker, "A cat."),
        ("human", "Why?"),
        (speaker, f"Because {index}."),
    ]
    return {
        "id": f"{name}_{index}",
        "image": image,
        "conversations": [{key: who, "value": text} for who, text in turns],
    }


def help_row(index, **changes):
    row = {
        "individual_RoleSet": {"Home": "Parent", "Office": "Clerk"},
        "query": f"<image>\nWhat now? {index}",
        "golden_response": "Feed the cat.",
        "image": {"file_path": "a.png"},
        "eval_info": {"ImageDesc": "A cat.", "location": "Home", "EvalHelp": "Kind words."},
    }
    return row | changes


def write_mmrole(root, png):
    """A small raw MMRole folder: two in-distribution files and an OOD file."""
    for folder in ("dialogues/in-distribution/comment", "dialogues/out-of-distribution"):
        (root / folder).mkdir(parents=True)
    for distribution, names in (("in-distribution", ["Ann_Lee", "Bo"]), ("out-of-distribution", ["Cy"])):
        folder = root / "profiles" / distribution / "detailed_profiles"
        folder.mkdir(parents=True)
        for name in names:
            (folder / f"{name}.json").write_text(json.dumps(PROFILE))
    (root / "profiles/in-distribution/detailed_profiles/Bad.json").write_text("{")
    (root / "a.png").write_bytes(png)
    write = lambda path, rows: (root / "dialogues" / path).write_text(json.dumps(rows))  # noqa: E731
    write("in-distribution/comment/b.json", [dialogue("b", i, "Bo", "role") for i in range(20)])
    dropped = [
        dialogue("a", 20, image="gone.png"),
        dialogue("a", 21, speaker="Bad"),
        dialogue("a", 22, speaker="human"),
        {"id": "a_23", "image": "a.png", "conversations": []},
    ]
    write("in-distribution/comment/a.json", [dialogue("a", i) for i in range(20)] + dropped)
    write("out-of-distribution/comment.json", [dialogue("o", i, "Cy") for i in range(3)])
    return root
