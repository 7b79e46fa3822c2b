"""What a judge scores: the 8 dimensions of role play (MMRole) and the 5 of personalised help (PCogAlignBench)."""

import dataclasses
from collections.abc import Mapping

ROLE_PLAY = {
    "Instruction Adherence": "Does the answer follow the task: only what the character would say, with no remarks "
    "before or after it about being a model or playing a part?",
    "Fluency": "Is the language grammatical and smooth?",
    "Coherency": "Does the answer hold together, without contradicting itself or earlier turns?",
    "Image-Text Relevance": "Does the answer relate to what the conversation says is in the picture?",
    "Response Accuracy": "Does the answer respond to what was said or asked?",
    "Personality Consistency": "Does the answer show the character's personality?",
    "Knowledge Consistency": "Does the answer fit what the character knows: experience, abilities, relationships?",
    "Tone Consistency": "Does the answer sound like the character, catchphrases included, and not like an assistant?",
}
HELP = {
    "Role-Set Sensitivity": "Does the answer take into account which roles you hold, and where?",
    "Body Behavior Awareness": "Does the answer help you to act well in this place and situation?",
    "Mind Feelings Awareness": "Does the answer see how you feel, and does it do you good?",
    "Contextual Awareness": "Does the answer use what can be seen in the scene?",
    "Conversational Flow": "Is the answer natural and easy to talk on from?",
}


@dataclasses.dataclass(frozen=True)
class JudgeRubric:
    """What a judge is asked to look at in one task; an own task makes its own.

    Attributes:
        system: who the judge is.
        dimensions: name -> question, in the order in which they are asked.
        facts: keys of a row's facts that the judge gets to see -> their headings.
    """

    system: str
    dimensions: Mapping[str, str]
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if not self.dimensions:
            raise ValueError("JudgeRubric.dimensions is empty, expected one dimension or more.")


ROLE_PLAY_RUBRIC = JudgeRubric(
    "You are a strict and fair evaluator of role-play conversations about pictures. You do not see the "
    "picture; rely on what the conversation tells about it.",
    ROLE_PLAY,
)
# The judge plays the user; the keys are PCogAlignBench's own names.
HELP_RUBRIC = JudgeRubric(
    "You are the user described below. You asked an assistant a question about what you see, and two "
    "assistants answered. Judge the answers as that user would.",
    HELP,
    {
        "role_set": "Your roles",
        "location": "Where you are",
        "ImageDesc": "What you see",
        "EvalHelp": "What you expect of a good answer",
    },
)
# For rows of one's own: any question about a picture.
ANSWER_RUBRIC = JudgeRubric(
    "You are a strict and fair evaluator of answers about pictures. You do not see the picture; rely on what the "
    "conversation and the two answers tell about it.",
    {
        "Accuracy": "Is what the answer says right, as far as the conversation and the other answer let you tell?",
        "Completeness": "Does the answer give all that was asked for, and nothing beside the point?",
        "Image-Text Relevance": "Does the answer relate to what is in the picture?",
        "Fluency": "Is the language grammatical and smooth?",
    },
)
RUBRICS = {"answer": ANSWER_RUBRIC, "role_play": ROLE_PLAY_RUBRIC, "help": HELP_RUBRIC}
