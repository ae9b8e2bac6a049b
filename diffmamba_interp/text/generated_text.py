"""English-like text from a grammar and a seed: text that is nobody's and never changes.

It serves as filler and as a small corpus wherever results must be the same on every machine and Python
version. Sentences are grammatical and locally coherent (a document keeps its people and its place), so a
small model has something to learn; they mention no label of the retrieval tasks.
"""

from __future__ import annotations

from collections.abc import Iterator

from diffmamba_interp.text.stable_random import StableRandom

_WHO = (
    *("the miller", "the captain", "the old doctor", "a painter", "the clerk", "the young widow"),
    *("the stranger", "the schoolmaster", "the gardener's brother", "a pedlar", "the judge", "the cook"),
    *("the two sailors", "the neighbours", "the shepherds", "the travellers", "the children"),
)
_PLURAL = ("the two sailors", "the neighbours", "the shepherds", "the travellers", "the children")
_WHERE = (
    *("by the river", "on the hill", "along the coast", "near the bridge", "in the valley", "on the moor"),
    *("at the edge of the wood", "behind the mill", "beside the lake", "under the old wall"),
    *("in the narrow street", "at the crossroads", "among the reeds", "below the castle"),
)
_WHEN = (
    *("That morning", "Towards evening", "In the early spring", "After the storm", "A week later"),
    *("Before sunrise", "On the third day", "During the long winter", "At last", "Some years afterwards"),
    *("When the bells had stopped", "As the snow began to melt", "Late in the autumn"),
)
_TOPIC = (
    *("the harvest", "the price of wool", "the broken wheel", "the new road", "the lost ship"),
    *("the quarrel", "the wedding", "an unpaid debt", "the strange light", "the flood", "the election"),
    *("the missing horse", "the weather", "the war", "the inheritance", "the voyage"),
)
_SAID = (
    *("spoke of", "worried about", "wrote about", "dreamt of", "made jokes about", "often thought of"),
    *("never forgot", "argued about", "asked about", "refused to discuss", "grew tired of"),
)
_MADE = (
    *("built a small boat", "repaired the roof", "counted the sheep", "planted a row of beans"),
    *("cut the long grass", "lit a great fire", "cooked a thin soup", "sharpened the knives"),
    *("carried stones all day", "sold three barrels of cider", "drew a picture of the sea"),
    *("sang an old song", "waited for the ferry", "slept until noon", "lost all courage"),
)
_QUALITY = (
    *("cold", "quiet", "bright", "bitter", "pleasant", "doubtful", "dangerous", "tedious", "beautiful"),
    *("solemn", "absurd", "uncertain", "generous", "dark", "empty", "wonderful"),
)
_SUBJECT = (
    *("The wind", "The water", "The silence", "The road", "The sky", "The bread", "The news", "The music"),
    *("The ice", "The smell of smoke", "The journey", "The first frost", "The long wait", "The silver moon"),
)
_REASON = (
    *("because nobody had told the truth", "since the boats were late", "for want of money"),
    *("though everyone advised against it", "as had been agreed", "without a word of explanation"),
    *("so that nothing would be wasted", "although the night was near", "in spite of the rain"),
)
_QUOTE = (
    *("It will rain before night", "We have seen worse years", "Nobody believes that any more"),
    *("There is still time", "You must not trust them", "The tide will not wait", "I would rather walk"),
    *("Nothing here is as it was", "That is what my father used to say", "Let us speak of something else"),
)
_NUMBER = ("two", "three", "five", "seven", "nine", "twelve", "twenty", "forty", "a hundred")
_COUNTED = ("miles", "days", "wagons", "soldiers", "pages", "geese", "coats", "islands", "years", "stones")


def generated_documents(*, n_chars: int, seed: int = 0, start: int = 0) -> list[str]:
    """Documents number `start` onward of a seed, at least `n_chars` characters in all.

    Raises ValueError if `n_chars` is not positive.
    """
    if n_chars < 1:
        raise ValueError(f"n_chars is {n_chars}: it must be a positive number of characters.")
    documents: list[str] = []
    total = 0
    for document in iterate_documents(seed=seed, start=start):
        documents.append(document)
        total += len(document)
        if total >= n_chars:
            break
    return documents


def iterate_documents(*, seed: int = 0, start: int = 0) -> Iterator[str]:
    """Documents number `start` onward of a seed, without end."""
    index = start
    while True:
        yield generated_document(seed=seed, index=index)
        index += 1


def generated_document(*, seed: int, index: int) -> str:
    """Document number `index` of a seed: 3 to 10 paragraphs of 3 to 8 sentences."""
    rng = StableRandom("generated text", seed, index)
    people, places, topics = rng.sample(_WHO, 3), rng.sample(_WHERE, 3), rng.sample(_TOPIC, 3)
    paragraphs = []
    for _ in range(3 + rng.integer(8)):
        sentences = [_sentence(rng, people, places, topics) for _ in range(3 + rng.integer(6))]
        paragraphs.append(" ".join(sentences))
    return "\n\n".join(paragraphs)


def _sentence(rng: StableRandom, people: list[str], places: list[str], topics: list[str]) -> str:
    who, where, topic, when = rng.pick(people), rng.pick(places), rng.pick(topics), rng.pick(_WHEN)
    form = rng.integer(8)
    if form == 0:
        text = f"{when} {who} {rng.pick(_MADE)} {where}"
    elif form == 1:
        text = f"{who} {rng.pick(_SAID)} {topic} {rng.pick(_REASON)}"
    elif form == 2:
        text = f"{rng.pick(_SUBJECT)} {where} was {rng.pick(_QUALITY)} and {rng.pick(_QUALITY)}"
    elif form == 3:
        return f'"{rng.pick(_QUOTE)}," said {who}.'
    elif form == 4:
        count = f"{rng.pick(_NUMBER)} {rng.pick(_COUNTED)}"
        text = f"there were {count} {where}, and {who} {rng.pick(_SAID)} {topic}"
    elif form == 5:
        text = f"{who} {rng.pick(_MADE)}, {rng.pick(_REASON)}"
    elif form == 6:
        were = "were" if who in _PLURAL else "was"
        text = f"{when} {who} {were} {rng.pick(_QUALITY)}, for {topic} had begun {where}"
    else:
        text = f"nobody {where} {rng.pick(_SAID)} {topic} as {who} did"
    return f"{text[0].upper()}{text[1:]}."
