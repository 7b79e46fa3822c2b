"""Captions, and questions and answers, about a scene, shown (paired data) or described (text-only data)."""

from typing import Any

from lam_jax.scenes.compose import Scene, categories, concepts
from lam_jax.scenes.language import (
    NUMBERS,
    POSITIONS,
    Rng,
    capitalize,
    groups,
    join,
    listing,
    noun_phrase,
    placed_listing,
    position,
    with_article,
)

Turn = tuple[str, str, dict[str, Any]]  # question, answer, the facts' "question" entry

# Every answer to one of these names every object and nothing else.
CAPTION_PROMPTS = (
    "Describe the picture.",
    "What is in the picture?",
    "What do you see?",
    "Write a short caption.",
    "Name everything in the image.",
    "What does the picture show?",
    "Give me a caption for this image.",
    "List the objects in the picture.",
)
DETAIL_PROMPTS = (
    "Describe the picture in detail.",
    "Write a long caption.",
    "Tell me all about this image.",
    "Explain where everything is.",
    "Describe the whole scene carefully.",
    "Give a full description of the image.",
)
SHORT_OPENINGS = (
    "The picture shows {}{}.",
    "This is a picture of {}{}.",
    "I can see {}{}.",
    "You can see {}{}.",
    "The image contains {}{}.",
    "Here we have {}{}.",
    "We see {}{}.",
    "It shows {}{}.",
    "A photo of {}{}.",
    "Somebody drew {}{}.",
    "This image presents {}{}.",
    "The artwork includes {}{}.",
)
SIZES = {"small": ("small", "little", "tiny"), "big": ("big", "large", "huge")}
STANCES = ("stands", "sits", "rests", "waits", "appears", "lies", "is placed", "is shown", "is visible", "can be seen")
PLACE_SENTENCES = (
    "The scene is {}.",
    "All of this happens {}.",
    "It takes place {}.",
    "We are {}.",
    "Everything is {}.",
    "The picture was made {}.",
    "This must be {}.",
    "The setting is somewhere {}.",
)
COUNT_SENTENCES = (
    "There {be} {number} {thing} in total.",
    "Altogether I count {number} {thing}.",
    "That makes {number} {thing}.",
    "The whole picture has {number} {thing}.",
)
NEXT_TO = ("To the right of {}", "Beside {}", "Next to {}", "Right after {}", "Following {}")


def short_caption(scene: Scene, rng: Rng) -> str:
    """One sentence that names every object, sometimes with positions or the place."""
    what = placed_listing(scene, rng) if rng.random() < 0.3 else listing(scene)
    place = f" {scene.place}" if rng.random() < 0.3 else ""
    return rng.choice(SHORT_OPENINGS).format(what, place)


def _sized(scene: Scene, index: int, rng: Rng) -> str:
    """An object with an adjective for its size, where that is small or big."""
    placed = scene.objects[index]
    size = "small" if placed.size <= 29 else "big" if placed.size >= 35 else None
    return noun_phrase(placed.concept, 1, rng.choice(SIZES[size]) if size and rng.random() < 0.7 else "")


def long_caption(scene: Scene, rng: Rng) -> str:
    """Two to five sentences: every object with size and position, the place, sometimes the count."""
    sentences = []
    if scene.uniform:
        concept, number = groups(scene)[0]
        what = noun_phrase(concept, number)
        sentences.append(rng.choice(SHORT_OPENINGS).format(what, ""))
        ways = ("They are lined up from left to right.", "They stand in a row.", "All of them look the same.")
        sentences.append(rng.choice(ways))
    else:
        for i in range(len(scene.objects)):
            thing, stance = _sized(scene, i, rng), rng.choice(STANCES)
            where = rng.choice(POSITIONS[position(scene, i)])
            if i and rng.random() < 0.3:
                before = f"the {scene.objects[i - 1].name}"
                sentences.append(f"{rng.choice(NEXT_TO).format(before)} {stance} {thing}.")
            elif rng.random() < 0.5:
                sentences.append(f"{capitalize(where)} {rng.choice((stance, 'there is', 'we find'))} {thing}.")
            else:
                sentences.append(f"{capitalize(thing)} {stance} {where}.")
    place = rng.choice(PLACE_SENTENCES).format(scene.place)
    sentences.insert(0 if rng.random() < 0.4 else len(sentences), place)
    if rng.random() < 0.25:
        number = len(scene.objects)
        thing = "thing" if number == 1 else rng.choice(("things", "objects", "items"))
        be = "is" if number == 1 else "are"
        sentences.append(rng.choice(COUNT_SENTENCES).format(be=be, number=NUMBERS[number], thing=thing))
    return " ".join(sentences)


def caption_turn(scene: Scene, rng: Rng, share_long: float = 0.5) -> Turn:
    """A caption prompt and its answer, which names every object."""
    asked = {"kind": "describe", "answer": [], "objects": sorted(set(scene.names))}
    if rng.random() < share_long:
        return rng.choice(DETAIL_PROMPTS), long_caption(scene, rng), asked
    return rng.choice(CAPTION_PROMPTS), short_caption(scene, rng), asked


def _side(scene: Scene, rng: Rng) -> Turn:
    index = rng.randrange(len(scene.objects))
    side, concept = position(scene, index), scene.objects[index].concept
    where = rng.choice(POSITIONS[side])
    question = rng.choice(("What is {}?", "Which object is {}?", "Tell me what is {}.", "What do you see {}?"))
    thing = noun_phrase(concept)
    answer = rng.choice(
        (
            f"{capitalize(where)} there is {thing}.",
            f"It is {thing}.",
            f"{capitalize(thing)} is {where}.",
            f"I see {thing}.",
        )
    )
    return question.format(where), answer, {"kind": f"{side}_of", "answer": [concept.name], "objects": [concept.name]}


def _neighbour(scene: Scene, rng: Rng) -> Turn:
    left = rng.randrange(len(scene.objects) - 1)
    first, second = scene.objects[left].concept, scene.objects[left + 1].concept
    side, known, asked = rng.choice((("right", first, second), ("left", second, first)))
    question = rng.choice(("What is to the {} of the {}?", "Which thing is just {} of the {}?"))
    thing = noun_phrase(asked)
    answer = rng.choice((f"To the {side} of the {known.name} there is {thing}.", f"{capitalize(thing)} is there."))
    return (
        question.format(side, known.name),
        answer,
        {"kind": f"{side}_of", "answer": [asked.name], "objects": [asked.name]},
    )


def _count(scene: Scene, rng: Rng) -> Turn:
    number = NUMBERS[len(scene.objects)]
    if scene.uniform or rng.random() < 0.4:
        concept = scene.objects[0].concept
        number = NUMBERS[scene.names.count(concept.name)]
        question = rng.choice(("How many {} are there?", "Count the {}.", "How many {} do you see?")).format(
            concept.plural
        )
        noun = concept.name if number == "one" else concept.plural
        answer = rng.choice(("There {} {} {}.", "I count {1} {2}.", "The picture has {1} {2}."))
        asked = [concept.name]
    else:
        question = rng.choice(("How many things are there?", "How many objects do you see?", "Count all the things."))
        noun = "thing" if number == "one" else rng.choice(("things", "objects"))
        answer = rng.choice(("There {} {} {}.", "I count {1} {2}.", "The picture has {1} {2}."))
        asked = []
    answer = (
        answer.format("is" if number == "one" else "are", number, noun)
        if "{}" in answer
        else answer.format("", number, noun)
    )
    return question, answer, {"kind": "count", "answer": [number, str(NUMBERS.index(number))], "objects": asked}


def _category_name(category: str) -> str:
    """ "an animal", "food"."""
    return category if category == "food" else with_article(category)


def _category(scene: Scene, rng: Rng) -> Turn:
    kinds = {placed.concept.category for placed in scene.objects}
    kind = rng.choice(sorted(kinds))
    found = list(dict.fromkeys(o.concept for o in scene.objects if o.concept.category == kind))
    if rng.random() < 0.5:
        concept = found[0]
        question = rng.choice(("What kind of thing is the {}?", "To which group does the {} belong?")).format(
            concept.name
        )
        subject = rng.choice((f"The {concept.name}", f"This {concept.name}", capitalize(with_article(concept.name))))
        answer = f"{subject} {rng.choice(('is', 'is clearly', 'must be'))} {_category_name(kind)}."
        return question, answer, {"kind": "category", "answer": [kind], "objects": [concept.name]}
    question = rng.choice(("Which {} do you see?", "Name each {} in the picture.", "Is there {}? What is it?"))
    question = question.format(kind if "Is there" not in question else _category_name(kind))
    things = [noun_phrase(concept, scene.names.count(concept.name)) for concept in found]
    answer = rng.choice(("I see {}.", "There is {}.", "The picture has {}."))
    names = [concept.name for concept in found]
    if answer.startswith("There is") and scene.uniform:
        answer = "There are {}."
    return question, answer.format(join(things)), {"kind": "category", "answer": names, "objects": names}


def _yes_no(scene: Scene, rng: Rng) -> Turn:
    concept = rng.choice(scene.objects).concept
    there = rng.random() < 0.5
    if not there:
        # The wrong guess is often of the same category, so that the category alone does not answer.
        pool = categories()[concept.category] if rng.random() < 0.5 else concepts()
        concept = rng.choice([other for other in pool if other.name not in scene.names])
    thing = with_article(concept.name)
    question = rng.choice(("Is there {}?", "Do you see {}?", "Does the picture show {}?")).format(thing)
    if there:
        answer = rng.choice(("Yes, there is {}.", "Yes, I see {}.", "Yes, the picture shows {}."))
        number = scene.names.count(concept.name)
        thing = noun_phrase(concept, number)
        answer = answer.replace("there is", "there are") if number > 1 else answer
        return question, answer.format(thing), {"kind": "name", "answer": ["yes"], "objects": [concept.name]}
    answer = rng.choice(("No, I only see {}.", "No, there is just {}.", "No, the picture shows {}."))
    answer = answer.replace("there is", "there are") if scene.uniform else answer
    return (
        question,
        answer.format(listing(scene)),
        {"kind": "name", "answer": ["no"], "objects": sorted(set(scene.names))},
    )


def _place(scene: Scene, rng: Rng) -> Turn:
    question = rng.choice(("Where is this?", "What place is this?", "Where was it made?", "What is in the background?"))
    answer = rng.choice(PLACE_SENTENCES).format(scene.place)
    return question, answer, {"kind": "place", "answer": [scene.background], "objects": []}


def question_turn(scene: Scene, rng: Rng) -> Turn:
    """A question about names, categories, counts, sides or the place, and its answer."""
    kinds = [_count, _category, _yes_no, _place]
    if not scene.uniform:
        kinds += [_side, _side]
        if len(scene.objects) > 1:
            kinds += [_neighbour, _neighbour]
    return rng.choice(kinds)(scene, rng)
