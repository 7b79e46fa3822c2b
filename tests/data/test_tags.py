"""Where pictures stand: tags in texts, parts, and what does not agree."""

import pytest

from lam_jax.data.readers import chat_examples, pretraining_examples, released_examples
from lam_jax.data.schemas import DataError, Example, Where

WHERE = Where("rows.json", 3)
ANSWER = {"role": "assistant", "content": "A cat."}
ONE, TWO = b"one", b"two"


def chat(*contents, answer=ANSWER):
    turns = []
    for content in contents:
        turns += [{"role": "user", "content": content}, answer]
    return turns


def read(messages, parse=chat_examples, **row):
    (example,) = parse({"id": "r", "messages": messages, **row}, WHERE)
    return example


def shown(example):
    """The user's texts with [n] where picture n stands."""
    texts = [message["content"] for message in example.messages]
    for number, (index, offset) in reversed(list(enumerate(example.places))):
        texts[index] = f"{texts[index][:offset]}[{number}]{texts[index][offset:]}"
    return [text for text, message in zip(texts, example.messages) if message["role"] == "user"]


@pytest.mark.parametrize(
    ("contents", "pictures", "expected"),
    [
        (["What is it?"], [ONE], ["[0]What is it?"]),
        (["What is it?"], [ONE, TWO], ["[0][1]What is it?"]),
        (["<image>\nWhat is it?"], [ONE], ["[0]What is it?"]),
        (["What is it?\n<image>"], [ONE], ["What is it?[0]"]),
        (["What is <image> here?"], [ONE], ["What is [0] here?"]),
        (["<image>\n<image>\nCompare."], [ONE, TWO], ["[0][1]Compare."]),
        (["Is <image> like\n<image>?"], [ONE, TWO], ["Is [0] like\n[1]?"]),
        (["Hello.", "<image>\nAnd this?"], [ONE], ["Hello.", "[0]And this?"]),
        (["Is <image>?", "And <image>"], [ONE, TWO], ["Is [0]?", "And[1]"]),
        ([" <image> ", "What?"], [ONE], ["[0]", "What?"]),
        (["<image> a", " <b> "], [ONE], ["[0]a", " <b> "]),
    ],
)
def test_a_picture_stands_where_its_tag_stands(contents, pictures, expected):
    for parse in (chat_examples, pretraining_examples):
        example = read(chat(*contents), parse, images=pictures)
        assert shown(example) == expected
        assert example.images == tuple(pictures)


@pytest.mark.parametrize(
    ("contents", "pictures", "key", "found"),
    [
        (["<image> a"], [ONE, TWO], "messages[0]", "1 <image> tags for 2 pictures"),
        (["a", "<image><image>"], [ONE], "messages[2]", "2 <image> tags for 1 pictures"),
        (["<image>\nWhat?"], [], "messages[0]", "1 <image> tags for 0 pictures"),
        (["<image>\nWhat?"], None, "messages[0]", "1 <image> tags for 0 pictures"),
    ],
)
def test_tags_and_pictures_that_do_not_agree_name_the_row(contents, pictures, key, found):
    row = {} if pictures is None else {"images": pictures}
    with pytest.raises(DataError) as error:
        read(chat(*contents), **row)
    assert str(error.value).startswith("rows.json, row 3, key 'messages[")
    assert error.value.key == key
    assert found in str(error.value)


def test_in_a_text_only_row_a_tag_is_text():
    text = " <svg><image>x</image></svg>\n"
    example = read(chat(text), pretraining_examples)
    assert example.messages[0]["content"] == text
    assert (example.images, example.places) == ((), ())
    with pytest.raises(DataError, match=r"2 <image> tags for 1 pictures"):
        read(chat(f"<image>{text}"), pretraining_examples, images=[ONE])


@pytest.mark.parametrize(
    "tag",
    [
        *(
            "<Image>",
            "<IMAGE>",
            "< image >",
            "<image/>",
            "<image 1>",
            "<image_1>",
            "<image1>",
            "<image-2>",
            "<img>",
            "<img1>",
        ),
        *(
            "<ImageHere>",
            "<image_placeholder>",
            "<image-token>",
            "<|image|>",
            "<|image_1|>",
            "<start_of_image>",
            "[IMG]",
        ),
        *("<|vision_start|><|image_pad|><|vision_end|>", "<|image_pad|>", "[image 2]", "<picture>"),
    ],
)
def test_a_tag_in_another_spelling_is_never_text_beside_a_picture_that_went_elsewhere(tag):
    for parse in (chat_examples, pretraining_examples):
        with pytest.raises(DataError, match=r"row 3, key 'messages\[2\]'.*not read as the place of a picture") as error:
            read(chat("Hello.", f"Is {tag} a cat?"), parse, image=ONE)
        assert "expected <image>" in str(error.value)
    parts = [{"type": "image"}, {"type": "text", "text": f"Is {tag} a cat?"}]
    assert shown(read(chat(parts), image=ONE)) == [f"[0]Is {tag} a cat?"]
    released = read(chat(f"Is {tag} a cat?"), released_examples, image=ONE)
    assert shown(released) == [f"[0]Is {tag} a cat?"]


@pytest.mark.parametrize(
    "tag",
    [
        "<Image>",
        "<image 1>",
        "<image_1>",
        "<image/>",
        "<image: a.png>",
        "&lt;image&gt;",
        "＜image＞",
        "<img>a.png</img>",
    ],
)
def test_a_tag_in_another_spelling_without_a_picture(tag):
    """As a tag in the right one: a text-only file may hold it, a chat whose picture is missing may not."""
    with pytest.raises(DataError, match="not read as the place of a picture"):
        read(chat(f"Is {tag} a cat?"))
    assert shown(read(chat(f" Is {tag} a cat?"), pretraining_examples)) == [f" Is {tag} a cat?"]


@pytest.mark.parametrize(
    "text", ["<img src='a.png'>", "<image href='a'/>", "<images>", "[imagine]", "<imagery>", "image 1"]
)
def test_other_markup_stays_as_it_is(text):
    for parse in (chat_examples, pretraining_examples):
        assert shown(read(chat(f" {text}"), parse)) == [f" {text}"]
        assert shown(read(chat(f"{text} a"), parse, image=ONE)) == [f"[0]{text} a"]


def test_a_tag_of_markup_is_not_the_place_of_a_picture():
    svg = "Mend <svg><image>x</image></svg>."
    for parse in (chat_examples, pretraining_examples):
        with pytest.raises(DataError, match=r"<image>..</image>, as in SVG.*list of parts"):
            read(chat(svg), parse, image=ONE)
    assert shown(read(chat([{"type": "image"}, {"type": "text", "text": svg}]), image=ONE)) == [f"[0]{svg}"]


def test_the_released_code_keeps_tags_and_puts_pictures_first():
    example = read(chat("Hello.", "<image>\nAnd this?"), released_examples, images=[ONE])
    assert shown(example) == ["[0]Hello.", "<image>\nAnd this?"]


def test_a_tag_in_an_answer_is_text_unless_the_picture_has_no_other_place():
    answer = {"role": "assistant", "content": "Write <image>."}
    assert read(chat("<image> How?", answer=answer), images=[ONE]).reference == "Write <image>."
    assert read(chat("How?", answer=answer)).reference == "Write <image>."
    with pytest.raises(DataError, match=r"key 'messages\[1\]': found <image> in the assistant's message"):
        read(chat("How?", answer=answer), images=[ONE])


def test_parts_say_where_pictures_stand_and_their_text_is_text():
    parts = [{"type": "text", "text": "Is <image> "}, {"type": "image", "text": None}, {"type": "text", "text": " so?"}]
    assert shown(read(chat(parts), image=ONE)) == ["Is <image> [0] so?"]
    held = [{"type": "image", "image": ONE}, {"type": "text", "text": "a"}]
    assert shown(read(chat("b", held))) == ["b", "[0]a"]
    address = "data:image/png;base64,dHdv"
    both = [{"type": "image"}, {"type": "image_url", "image_url": {"url": address}}, {"type": "text", "text": "a"}]
    example = read(chat("<image> b", both), images=[ONE, b"three"])
    assert shown(example) == ["[0]b", "[1][2]a"]
    assert example.images == (ONE, b"three", TWO)
    text = [{"type": "text", "text": "<image>"}]
    assert shown(read(chat(text))) == ["<image>"]
    assert shown(read(chat(text), image=ONE)) == ["[0]<image>"]


@pytest.mark.parametrize(
    ("content", "row", "message"),
    [
        ([{"type": "image"}], {}, r"key 'messages\[0\]': found 1 picture parts for 0 pictures"),
        ([{"type": "image", "image": ONE}], {"image": TWO}, "1 pictures beside the 1 that its parts hold"),
        ([{"type": "video", "video": "a.mp4"}], {}, r"content\[0\], key 'type': found str 'video'.*not read"),
        ([{"type": "image", "img": "a.png"}], {"image": ONE}, r"content\[0\], key 'img': found a key that is not read"),
        (["a"], {}, r"content\[0\]: found str 'a'"),
        (3, {}, r"messages\[0\], key 'content': found int 3"),
        ([{"type": "image", "image": ONE, "path": "b"}], {}, "both 'image' and 'path'"),
        ([{"type": "text"}], {}, r"key 'text': found no such key"),
    ],
)
def test_bad_parts_are_named(content, row, message):
    with pytest.raises(DataError, match=message):
        read(chat(content), **row)


def test_pictures_of_another_role_are_refused():
    with pytest.raises(DataError, match="a picture in the assistant's message"):
        read([{"role": "user", "content": "a"}, {"role": "assistant", "content": [{"type": "image", "image": ONE}]}])


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (((0, 0),), "1 places for 2 pictures"),
        (((0, 0), (1, 0)), "a picture in message 1"),
        (((0, 0), (0, 9)), "a picture at character 9 of message 0"),
        (((0, 1), (0, 0)), "the order of the text"),
        (((0, 0), (-1, 0)), "a picture in message -1"),
    ],
)
def test_places_are_checked(places, message):
    with pytest.raises(DataError, match=message):
        Example("x", ({"role": "user", "content": "ab"}, ANSWER), (ONE, TWO), places=places)


def test_default_places_are_first_in_the_first_user_turn():
    messages = ({"role": "system", "content": "s"}, {"role": "user", "content": "a"}, ANSWER)
    assert Example("x", messages, (ONE, TWO)).places == ((1, 0), (1, 0))
    assert Example("x", messages).places == ()
