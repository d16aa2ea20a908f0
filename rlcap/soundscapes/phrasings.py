"""How people name sounds: the phrasings of well-known labels, and other names of the same sound.

Covers the synthetic world and the classes of ESC-50 (Piczak 2015).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Phrasing:
    """The ways to name one sound."""

    clauses: tuple[str, ...]
    """Whole sentences, such as "a dog barks"."""
    nouns: tuple[str, ...]
    """Noun phrases that may follow "followed by", such as "a dog barking"."""
    synonyms: tuple[str, ...] = ()
    """Further names that readers understand and captions do not use."""


def _phrasing(clauses: str, nouns: str, synonyms: str = "") -> Phrasing:
    """Each argument lists phrases between commas."""
    parts = (
        tuple(phrase.strip() for phrase in text.split(",") if phrase.strip()) for text in (clauses, nouns, synonyms)
    )
    return Phrasing(*parts)


PHRASINGS: dict[str, Phrasing] = {
    # The synthetic world.
    "rain": _phrasing(
        "rain falls, rain is falling, it is raining",
        "rain falling, falling rain",
        "rainfall, drizzle, pouring rain, rain pouring, rain pattering",
    ),
    "wind": _phrasing(
        "wind blows, the wind is blowing, the wind howls", "wind blowing, howling wind", "wind, gusts, breeze, windy"
    ),
    "fire crackling": _phrasing(
        "a fire crackles, a fire is crackling, a fire burns",
        "a fire crackling, a crackling fire",
        "fire, crackling, flames, campfire",
    ),
    "applause": _phrasing(
        "people clap, people are clapping, a crowd applauds",
        "people clapping, a crowd applauding",
        "applause, clapping, crowd clapping, audience clapping",
    ),
    "thunder": _phrasing(
        "thunder rumbles, thunder is rumbling, thunder rolls",
        "thunder rumbling, thunder rolling",
        "thunder, thunderclap, thunderstorm",
    ),
    "engine": _phrasing(
        "an engine runs, an engine is running, a motor hums",
        "an engine running, a motor humming",
        "engine, motor, engine idling, car engine, engine revving, motor running",
    ),
    "helicopter": _phrasing(
        "a helicopter flies, a helicopter is flying, a helicopter passes",
        "a helicopter flying, a helicopter passing",
        "helicopter, chopper, helicopter hovering, helicopter overhead",
    ),
    "siren": _phrasing(
        "a siren wails, a siren is wailing, a siren blares",
        "a siren wailing, a siren blaring",
        "siren, ambulance, police siren",
    ),
    "clock tick": _phrasing(
        "a clock ticks, a clock is ticking", "a clock ticking, a ticking clock", "clock, ticking, tick tock"
    ),
    "footsteps": _phrasing(
        "someone walks, a person is walking, footsteps approach",
        "a person walking, footsteps approaching",
        "footsteps, steps, walking",
    ),
    "bird song": _phrasing(
        "birds sing, birds are singing, birds chirp",
        "birds singing, birds chirping",
        "birdsong, birds, birds tweeting, chirping birds, singing birds",
    ),
    "crickets": _phrasing(
        "crickets chirp, crickets are chirping",
        "crickets chirping, chirping crickets",
        "crickets, insects, insects buzzing",
    ),
    "baby cry": _phrasing(
        "a baby cries, a baby is crying, a baby wails",
        "a baby crying, a crying baby",
        "crying, infant crying, infant cries, child crying",
    ),
    "dog bark": _phrasing(
        "a dog barks, a dog is barking, a hound barks",
        "a dog barking, a hound barking",
        "barking, barking of a dog, a barking dog, woof",
    ),
    "cat meow": _phrasing(
        "a cat meows, a cat is meowing, a kitten meows",
        "a cat meowing, a kitten meowing",
        "meowing, meow, a cat crying, a meowing cat",
    ),
    "bell": _phrasing(
        "a bell rings, a bell is ringing, a bell tolls",
        "a bell ringing, a bell tolling",
        "bell, church bell, chimes, tolling, church bell ringing, a ringing bell",
    ),
    "knock": _phrasing(
        "someone knocks, a person is knocking, a door is knocked on",
        "someone knocking, a person knocking",
        "knocking, door knock, knock on a door, knock at the door, knock on wood",
    ),
    "car horn": _phrasing(
        "a car honks, a car is honking, a horn honks",
        "a car honking, a horn honking",
        "honking, horn, car horn, car beeping, vehicle honking, car horn honking, horn blowing",
    ),
    "telephone ring": _phrasing(
        "a telephone rings, a phone is ringing, a phone rings",
        "a telephone ringing, a phone ringing",
        "telephone, phone, ringtone, a ringing phone, a ringing telephone",
    ),
    "whistle": _phrasing(
        "someone whistles, a person is whistling, a man whistles",
        "someone whistling, a person whistling",
        "whistling, whistle blowing, whistling of a person",
    ),
    # The rest of ESC-10.
    "sea waves": _phrasing(
        "waves crash, waves are crashing, waves roll onto the shore",
        "waves crashing, waves rolling onto the shore",
        "waves, sea waves, ocean waves, sea, ocean, surf",
    ),
    "person sneeze": _phrasing(
        "a person sneezes, someone sneezes, a person is sneezing",
        "a person sneezing, someone sneezing",
        "sneezing, sneeze, a man sneezes, a woman sneezes",
    ),
    "chainsaw": _phrasing(
        "a chainsaw runs, a chainsaw is running, a chainsaw cuts wood",
        "a chainsaw running, a chainsaw cutting wood",
        "chainsaw, chain saw, chainsaw buzzing, chainsaw revving",
    ),
    "rooster": _phrasing(
        "a rooster crows, a rooster is crowing",
        "a rooster crowing, a crowing rooster",
        "rooster, crowing, cock crowing",
    ),
    # The rest of ESC-50.
    "cow": _phrasing("a cow moos, a cow is mooing", "a cow mooing", "cow, mooing"),
    "frog": _phrasing("a frog croaks, a frog is croaking", "a frog croaking", "frog, croaking"),
    "hen": _phrasing("a hen clucks, a hen is clucking", "a hen clucking", "hen, clucking, chicken clucking"),
    "pig": _phrasing("a pig grunts, a pig is grunting", "a pig grunting", "pig, oinking, pig oinking"),
    "sheep": _phrasing("a sheep bleats, a sheep is bleating", "a sheep bleating", "sheep, bleating, goat bleating"),
    "crow": _phrasing("a crow caws, a crow is cawing", "a crow cawing", "crow, cawing"),
    "insects": _phrasing("insects buzz, insects are buzzing", "insects buzzing", "insects, buzzing, flies buzzing"),
    "pouring water": _phrasing("water pours, water is pouring", "water pouring", "pouring water, liquid pouring"),
    "water drops": _phrasing(
        "water drips, water is dripping", "water dripping", "dripping, water drops, drops of water"
    ),
    "toilet flush": _phrasing("a toilet flushes, a toilet is flushing", "a toilet flushing", "toilet, flushing"),
    "breathing": _phrasing("a person breathes, someone is breathing", "a person breathing", "breathing"),
    "brushing teeth": _phrasing(
        "a person brushes teeth, someone is brushing teeth", "a person brushing teeth", "brushing teeth, toothbrush"
    ),
    "coughing": _phrasing("a person coughs, someone is coughing", "a person coughing", "coughing, cough"),
    "drinking sipping": _phrasing("a person sips, someone is drinking", "a person sipping", "drinking, sipping"),
    "laughing": _phrasing("a person laughs, someone is laughing", "a person laughing", "laughing, laughter"),
    "snoring": _phrasing("a person snores, someone is snoring", "a person snoring", "snoring"),
    "airplane": _phrasing(
        "an airplane flies, an airplane is flying", "an airplane flying", "airplane, plane, aircraft, jet, plane flying"
    ),
    "fireworks": _phrasing("fireworks explode, fireworks are exploding", "fireworks exploding", "fireworks"),
    "hand saw": _phrasing("a person saws wood, someone is sawing wood", "a person sawing wood", "sawing, hand saw"),
    "train": _phrasing("a train passes, a train is passing", "a train passing", "train, train horn, train moving"),
    "can opening": _phrasing("a can opens, a can is opening", "a can opening", "can opening"),
    "clock alarm": _phrasing(
        "an alarm beeps, an alarm is beeping", "an alarm beeping", "alarm, alarm clock, alarm ringing"
    ),
    "door wood creaks": _phrasing("a door creaks, a door is creaking", "a door creaking", "creaking, door squeaking"),
    "glass breaking": _phrasing("glass breaks, glass is breaking", "glass breaking", "glass, glass shattering"),
    "keyboard typing": _phrasing(
        "a person types, someone is typing", "a person typing", "typing, keyboard, typing on a keyboard"
    ),
    "mouse click": _phrasing("a mouse clicks, a mouse is clicking", "a mouse clicking", "clicking, mouse click"),
    "vacuum cleaner": _phrasing(
        "a vacuum cleaner runs, a vacuum cleaner is running", "a vacuum cleaner running", "vacuum, vacuum cleaner"
    ),
    "washing machine": _phrasing(
        "a washing machine runs, a washing machine is running", "a washing machine running", "washing machine"
    ),
}

# Other data sets' names of the sounds above.
OTHER_NAMES: dict[str, str] = {
    "dog": "dog bark",
    "dog barking": "dog bark",
    "cat": "cat meow",
    "crying baby": "baby cry",
    "baby crying": "baby cry",
    "crackling fire": "fire crackling",
    "clapping": "applause",
    "thunderstorm": "thunder",
    "chirping birds": "bird song",
    "sneezing": "person sneeze",
    "sneeze": "person sneeze",
    "church bells": "bell",
    "door wood knock": "knock",
    "door knock": "knock",
    "clock ticking": "clock tick",
    "telephone": "telephone ring",
    "phone ring": "telephone ring",
    "ocean waves": "sea waves",
    "waves": "sea waves",
    "rooster crow": "rooster",
    "chain saw": "chainsaw",
    "raining": "rain",
    "cricket": "crickets",
    "birds": "bird song",
    "whistling": "whistle",
    "walking": "footsteps",
}
