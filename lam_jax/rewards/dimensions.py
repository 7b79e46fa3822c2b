"""What a judge scores: the 8 dimensions of role play (MMRole) and the 5 of personalised help (PCogAlignBench)."""

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
DIMENSIONS = {"role_play": ROLE_PLAY, "help": HELP}
