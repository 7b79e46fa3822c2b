"""The words of the data set: registers of speech, jobs, feelings, names.

A *register* is a set of words that belong together and to nothing else: a voice (how a character opens, addresses and
looks), a mood (its adjectives and verbs of feeling), a passion (what it compares things with), a job, a feeling. A
character's profile states its voice, mood and passion, so that anyone who knows the registers can speak like a
character never met before. `PLAIN` words belong to no register: correct English, but nobody's style. No word is in two
registers, and none is an object's name (a test checks both), so a word alone tells whose style it is.
"""


def _list(text: str) -> list[str]:
    return text.split()


# voice -> opening word, address of the listener, verb of seeing.
VOICES: dict[str, dict[str, tuple[str, ...]]] = {
    "pirate": {
        "opening": ("Ahoy", "Avast", "Arr", "Yarr", "Yoho", "Blimey"),
        "address": ("matey", "sailor", "shipmate", "buccaneer", "captain", "deckhand"),
        "see": ("spy", "sight", "hail", "chart", "salvage", "claim"),
    },
    "knight": {
        "opening": ("Hark", "Huzzah", "Greetings", "Verily", "Prithee", "Forsooth"),
        "address": ("liege", "sire", "squire", "champion", "vassal", "majesty"),
        "see": ("behold", "salute", "honor", "admire", "protect", "defend"),
    },
    "cowboy": {
        "opening": ("Howdy", "Yeehaw", "Whoa", "Giddyup", "Shucks", "Yup"),
        "address": ("partner", "cowpoke", "ranger", "stranger", "buckaroo", "neighbor"),
        "see": ("spot", "track", "wrangle", "lasso", "corral", "rope"),
    },
    "scholar": {
        "opening": ("Indeed", "Eureka", "Remarkable", "Fascinating", "Notably", "Evidently"),
        "address": ("colleague", "student", "professor", "pupil", "reader", "researcher"),
        "see": ("observe", "examine", "study", "document", "identify", "classify"),
    },
    "robot": {
        "opening": ("Beep", "Boop", "Bzzt", "Online", "Ping", "Alert"),
        "address": ("unit", "operator", "citizen", "organism", "creator", "earthling"),
        "see": ("detect", "scan", "compute", "register", "process", "locate"),
    },
    "granny": {
        "opening": ("Goodness", "Gracious", "Heavens", "Mercy", "Lordy", "Deary"),
        "address": ("dear", "sweetie", "honey", "darling", "grandchild", "sugar"),
        "see": ("fancy", "cherish", "prize", "recall", "welcome", "hug"),
    },
    "wizard": {
        "opening": ("Abracadabra", "Alakazam", "Presto", "Shazam", "Zounds", "Hocus"),
        "address": ("apprentice", "mortal", "seeker", "traveler", "acolyte", "wanderer"),
        "see": ("conjure", "divine", "foresee", "summon", "enchant", "reveal"),
    },
    "chef": {
        "opening": ("Bonjour", "Voila", "Bravo", "Yum", "Superb", "Buono"),
        "address": ("gourmet", "foodie", "guest", "diner", "taster", "patron"),
        "see": ("taste", "sample", "savor", "season", "garnish", "serve"),
    },
    "surfer": {
        "opening": ("Cowabunga", "Gnarly", "Stoked", "Radical", "Yo", "Aloha"),
        "address": ("dude", "bro", "buddy", "brah", "homie", "amigo"),
        "see": ("dig", "catch", "feel", "ride", "score", "groove"),
    },
    "detective": {
        "opening": ("Aha", "Hmm", "Elementary", "Interesting", "Listen", "Psst"),
        "address": ("inspector", "officer", "watson", "constable", "sergeant", "deputy"),
        "see": ("deduce", "suspect", "investigate", "inspect", "trace", "uncover"),
    },
}

# mood -> adjectives, and verbs of what a sight does to the speaker.
MOODS: dict[str, dict[str, tuple[str, ...]]] = {
    "cheerful": {
        "adjective": ("happy", "jolly", "sunny", "merry", "bright", "joyful", "cheery", "lovely"),
        "verb": ("warms", "lifts", "tickles", "delights", "brightens", "gladdens"),
    },
    "gloomy": {
        "adjective": ("sad", "gray", "lonely", "dreary", "weary", "bleak", "mournful", "dull"),
        "verb": ("sinks", "saddens", "darkens", "dampens", "pains", "burdens"),
    },
    "fierce": {
        "adjective": ("mighty", "bold", "savage", "fearsome", "brutal", "wild", "ruthless", "deadly"),
        "verb": ("fires", "fuels", "ignites", "shakes", "strikes", "hardens"),
    },
    "dreamy": {
        "adjective": ("misty", "floating", "silvery", "magical", "starry", "velvet", "hazy", "golden"),
        "verb": ("carries", "sways", "lulls", "wraps", "haunts", "veils"),
    },
    "grumpy": {
        "adjective": ("silly", "annoying", "useless", "dusty", "crooked", "noisy", "shabby", "rotten"),
        "verb": ("bothers", "annoys", "irks", "spoils", "bores", "nags"),
    },
    "proud": {
        "adjective": ("grand", "royal", "splendid", "glorious", "majestic", "regal", "lofty", "stately"),
        "verb": ("elevates", "swells", "exalts", "flatters", "gilds", "praises"),
    },
    "curious": {
        "adjective": ("odd", "strange", "puzzling", "unusual", "peculiar", "weird", "rare", "mysterious"),
        "verb": ("perplexes", "intrigues", "teases", "questions", "baffles", "stirs"),
    },
    "calm": {
        "adjective": ("quiet", "soft", "still", "peaceful", "mild", "smooth", "tender", "serene"),
        "verb": ("calms", "soothes", "rests", "eases", "settles", "heals"),
    },
}

# passion -> what a sight is compared with.
PASSIONS: dict[str, tuple[str, ...]] = {
    "cooking": ("soup", "gravy", "spices", "butter", "stew", "noodles", "sauce"),
    "sailing": ("waves", "sails", "tides", "anchors", "islands", "pearls", "oceans"),
    "music": ("melodies", "songs", "chords", "rhythms", "choirs", "harmonies", "tunes"),
    "stars": ("comets", "planets", "moonlight", "galaxies", "meteors", "stardust", "eclipses"),
    "gold": ("coins", "jewels", "rubies", "diamonds", "emeralds", "silver", "riches"),
    "gardening": ("blossoms", "seeds", "petals", "moss", "compost", "roots", "vines"),
    "books": ("poems", "legends", "riddles", "chapters", "fables", "stories", "letters"),
    "battle": ("swords", "shields", "armor", "banners", "duels", "arrows", "spears"),
}

# Words of nobody's style, by slot.
PLAIN: dict[str, tuple[str, ...]] = {
    "opening": ("Hello", "Hi", "Well"),
    "address": ("friend", "pal", "folks"),
    "see": ("see", "find", "notice"),
    "adjective": ("nice", "good", "fine"),
    "verb": ("pleases", "moves", "touches"),
    "passion": ("things", "days", "memories"),
    "job": ("work", "tasks", "duties"),
    "mind": ("bad", "off", "unwell"),
    "body": ("wait a moment", "stay here", "carry on"),
}

# A catchphrase is one of FRAMES filled from the other two: about 1,800 in all.
CATCH_FRAMES = ("{verb} the {noun}!", "Always {low} the {noun}!", "Never {low} a {noun}!", "{verb} every {noun}!")
CATCH_VERBS = _list(
    "Hoist Polish Follow Trust Chase Remember Raise Feed Paint Ring Shake Sharpen Bury Open Light Kiss Borrow Dodge"
)
CATCH_NOUNS = _list(
    "flag lantern moon river candle wheel map compass mirror crumb dragon cloud flame shadow secret mill pebble "
    "feather whistle clock ghost goose pumpkin bridge"
)

TRAIN_NAMES = _list(
    "Finn Rosa Otto Mabel Hugo Greta Jasper Nell Boris Ivy Cedric Dora Felix Luna Magnus Pearl Quentin Stella Tobias "
    "Wanda"
)
HELD_OUT_NAMES = _list("Ned Ada Ezra Jane Leo Tina")
OTHER_NAMES = _list("Abe Bea Carl Dan Eve Fay Gus Hal Ida Joe Kim Lou")

# job -> the things it deals with.
JOBS: dict[str, tuple[str, ...]] = {
    "nurse": ("patients", "bandages", "medicine", "checkups", "wards", "clinics"),
    "teacher": ("lessons", "pupils", "homework", "chalk", "grades", "classes"),
    "baker": ("dough", "flour", "ovens", "crusts", "yeast", "batter"),
    "farmer": ("crops", "cows", "barns", "hay", "harvests", "fields"),
    "artist": ("sketches", "canvas", "brushes", "portraits", "clay", "murals"),
    "driver": ("routes", "passengers", "traffic", "fuel", "cargo", "roads"),
    "guard": ("alarms", "doors", "gates", "patrols", "badges", "visitors"),
    "coach": ("drills", "players", "matches", "laps", "scores", "athletes"),
    "singer": ("lyrics", "concerts", "microphones", "ballads", "rehearsals", "encores"),
    "writer": ("drafts", "novels", "plots", "pages", "notebooks", "editors"),
    "gardener": ("hedges", "weeds", "pots", "soil", "bulbs", "lawns"),
    "mechanic": ("engines", "bolts", "gears", "brakes", "oil", "repairs"),
    "lifeguard": ("swimmers", "towels", "rescues", "currents", "buoys", "shores"),
    "guide": ("tourists", "trails", "maps", "tours", "paths", "hikers"),
    "waiter": ("tables", "menus", "orders", "trays", "napkins", "plates"),
    "clerk": ("files", "stamps", "invoices", "folders", "forms", "printers"),
    "scientist": ("samples", "experiments", "formulas", "microscopes", "theories", "data"),
    "photographer": ("lenses", "photos", "albums", "frames", "cameras", "filters"),
    "carpenter": ("planks", "nails", "shelves", "beams", "cabinets", "varnish"),
    "parent": ("toddlers", "lunches", "bedtimes", "strollers", "diapers", "cuddles"),
}

# feeling -> other words for it, and what a body can do about it.
FEELINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "tired": {
        "mind": ("tired", "exhausted", "sleepy", "drained", "drowsy", "fatigued"),
        "body": ("lie down", "close your eyes", "rest your legs", "take a nap", "drink water", "lean back"),
    },
    "nervous": {
        "mind": ("nervous", "anxious", "tense", "uneasy", "jittery", "restless"),
        "body": (
            "breathe slowly",
            "relax your shoulders",
            "open your hands",
            "inhale deeply",
            "loosen your jaw",
            "exhale",
        ),
    },
    "bored": {
        "mind": ("bored", "idle", "listless", "uninspired", "jaded", "passive"),
        "body": ("jump around", "dance a little", "clap your hands", "skip along", "spin around", "wiggle your toes"),
    },
    "angry": {
        "mind": ("angry", "upset", "furious", "irritated", "heated", "cross"),
        "body": ("count to ten", "step back", "walk away", "punch a pillow", "cool your face", "squeeze a cushion"),
    },
    "shy": {
        "mind": ("shy", "timid", "bashful", "hesitant", "reserved", "modest"),
        "body": ("lift your chin", "smile gently", "wave politely", "stand tall", "nod warmly", "make eye contact"),
    },
    "excited": {
        "mind": ("excited", "thrilled", "eager", "hyper", "giddy", "energetic"),
        "body": ("slow down", "pace yourself", "stretch your back", "stroll calmly", "hum softly", "sit down"),
    },
    "stressed": {
        "mind": ("stressed", "pressured", "overloaded", "frazzled", "strained", "swamped"),
        "body": ("roll your neck", "rub your forehead", "shake your arms", "bend your knees", "pause", "take a break"),
    },
    "lost": {
        "mind": ("lost", "confused", "unsure", "adrift", "aimless", "uncertain"),
        "body": ("look around", "turn around", "point forward", "take one step", "go back", "raise your hand"),
    },
}
