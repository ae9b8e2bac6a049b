"""Words and sentence forms of the generated stories.

`BABI` follows the public sentence forms of the bAbI tasks, so that a model trained on generated stories
reads real ones; `OWN` has more words and other forms. A vocabulary with more words than a story needs lends
each story a cast of the size that bAbI has.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from diffmamba_interp.text.stable_random import StableRandom

VocabularyName = Literal["babi", "own", "mixed"]

PEOPLE_PER_STORY = 4
PLACES_PER_STORY = 6
OBJECTS_PER_STORY = 3


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Words, and templates with the slots {who}, {to}, {thing}, {place}, {other}, {direction}, {there}.

    people, givers: who acts in qa1-qa3, and in qa5. there: "" or " there".
    """

    name: str
    people: tuple[str, ...]
    givers: tuple[str, ...]
    places: tuple[str, ...]
    objects: tuple[str, ...]
    move: tuple[str, ...]
    take: tuple[str, ...]
    drop: tuple[str, ...]
    give: tuple[str, ...]
    relation: tuple[str, ...]
    where_person: tuple[str, ...]
    where_object: tuple[str, ...]
    where_before: tuple[str, ...]
    what_lies: tuple[str, ...]
    lies_of_what: tuple[str, ...]
    given_thing: tuple[str, ...]
    giver_of: tuple[str, ...]
    giver_of_to: tuple[str, ...]
    receiver_of: tuple[str, ...]
    receiver_of_from: tuple[str, ...]

    def cast(self, rng: StableRandom) -> Vocabulary:
        """The words of one story, as many as bAbI has."""
        return replace(
            self,
            people=tuple(rng.sample(self.people, PEOPLE_PER_STORY)),
            givers=tuple(rng.sample(self.givers, PEOPLE_PER_STORY)),
            places=tuple(rng.sample(self.places, PLACES_PER_STORY)),
            objects=tuple(rng.sample(self.objects, OBJECTS_PER_STORY)),
        )


def vocabulary_named(name: str, rng: StableRandom) -> Vocabulary:
    """The vocabulary called `name`; for "mixed", one of the two by a fair draw from `rng`."""
    if name == "mixed":
        return rng.pick((BABI, OWN))
    if name not in ("babi", "own"):
        raise ValueError(f"vocabulary is {name!r}: it must be 'babi', 'own' or 'mixed'.")
    return BABI if name == "babi" else OWN


BABI = Vocabulary(
    name="babi",
    people=("Mary", "John", "Sandra", "Daniel"),
    givers=("Bill", "Fred", "Jeff", "Mary"),
    places=("bathroom", "bedroom", "garden", "hallway", "kitchen", "office"),
    objects=("apple", "football", "milk"),
    move=(
        "{who} moved to the {place}.",
        "{who} went to the {place}.",
        "{who} went back to the {place}.",
        "{who} journeyed to the {place}.",
        "{who} travelled to the {place}.",
    ),
    take=(
        "{who} got the {thing}{there}.",
        "{who} took the {thing}{there}.",
        "{who} grabbed the {thing}{there}.",
        "{who} picked up the {thing}{there}.",
    ),
    drop=(
        "{who} left the {thing}{there}.",
        "{who} discarded the {thing}{there}.",
        "{who} put down the {thing}{there}.",
        "{who} dropped the {thing}{there}.",
    ),
    give=(
        "{who} gave the {thing} to {to}.",
        "{who} passed the {thing} to {to}.",
        "{who} handed the {thing} to {to}.",
    ),
    relation=("The {place} is {direction} of the {other}.",),
    where_person=("Where is {who}?",),
    where_object=("Where is the {thing}?",),
    where_before=("Where was the {thing} before the {place}?",),
    what_lies=("What is {direction} of the {place}?",),
    lies_of_what=("What is the {place} {direction} of?",),
    given_thing=("What did {who} give to {to}?",),
    giver_of=("Who gave the {thing}?",),
    giver_of_to=("Who gave the {thing} to {to}?",),
    receiver_of=("Who received the {thing}?",),
    receiver_of_from=("Who did {who} give the {thing} to?",),
)

_OWN_PEOPLE = (
    *("Alice", "Arthur", "Clara", "Dora", "Edith", "Felix", "Grace", "Henry", "Hugo", "Irene", "Julia"),
    *("Laura", "Lewis", "Martin", "Nora", "Oscar", "Paul", "Peter", "Ruth", "Simon", "Thomas", "Victor"),
    *("Walter", "Winifred"),
)

OWN = Vocabulary(
    name="own",
    people=_OWN_PEOPLE,
    givers=_OWN_PEOPLE,
    places=(
        *("attic", "bakery", "balcony", "barn", "cabin", "cellar", "chapel", "courtyard", "garage"),
        *("harbour", "library", "market", "museum", "nursery", "orchard", "pantry", "school", "stable"),
        *("station", "studio", "theatre", "tower", "village", "workshop"),
    ),
    objects=(
        *("basket", "blanket", "book", "bottle", "box", "camera", "candle", "clock", "coin", "cup"),
        *("feather", "hammer", "kettle", "key", "ladder", "lamp", "letter", "map", "mirror", "ring"),
        *("rope", "scarf", "umbrella", "violin"),
    ),
    move=(
        "{who} walked to the {place}.",
        "{who} ran to the {place}.",
        "{who} hurried over to the {place}.",
        "{who} has come to the {place}.",
        "{who} is now in the {place}.",
        "{who} set out for the {place} and soon got there.",
    ),
    take=(
        "{who} lifted the {thing}{there}.",
        "{who} collected the {thing}{there}.",
        "{who} found the {thing}{there} and kept it.",
        "{who} got hold of the {thing}{there}.",
    ),
    drop=(
        "{who} set down the {thing}{there}.",
        "{who} laid the {thing} aside{there}.",
        "{who} abandoned the {thing}{there}.",
        "{who} let go of the {thing}{there}.",
    ),
    give=(
        "{who} lent the {thing} to {to}.",
        "{who} brought {to} the {thing}.",
        "{to} got the {thing} from {who}.",
        "{who} presented {to} with the {thing}.",
    ),
    relation=(
        "The {place} lies {direction} of the {other}.",
        "The {place} stands just {direction} of the {other}.",
        "Going {direction} from the {other} one reaches the {place}.",
    ),
    where_person=("Where is {who}?", "In which place is {who} now?", "Where has {who} gone?"),
    where_object=("Where is the {thing}?", "In which place is the {thing} now?", "Where has the {thing} gone?"),
    where_before=(
        "Where was the {thing} before the {place}?",
        "In which place was the {thing} before it came to the {place}?",
    ),
    what_lies=("What is {direction} of the {place}?", "Which place lies {direction} of the {place}?"),
    lies_of_what=("What is the {place} {direction} of?", "Which place does the {place} lie {direction} of?"),
    given_thing=("What did {who} give to {to}?", "Which thing did {to} get from {who}?"),
    giver_of=("Who gave the {thing}?", "Who last gave away the {thing}?"),
    giver_of_to=("Who gave the {thing} to {to}?", "From whom did {to} get the {thing}?"),
    receiver_of=("Who received the {thing}?", "Who was last given the {thing}?"),
    receiver_of_from=("Who did {who} give the {thing} to?", "Who got the {thing} from {who}?"),
)
