"""Descriptions as templates with slots, and back: which words of a sentence say what a person looks like.

A template is a sentence whose noun phrases about a person's looks are slots: "a man in a grey coat with a red bag" ->
"{a person} in {a upper} with {a bag}". The paper lets a language model rewrite captions so; here a list of nouns and of
the words before them does it, for English (a decision of ours: the same template for the same caption, on any machine).
What a description says of a slot is its value ("grey coat"), with which another template can be filled.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

HEADS: dict[str, str] = {
    "person": "man woman boy girl lady gentleman guy male female person pedestrian adult teenager child individual",
    "hair": "hair ponytail braid bun",
    "upper": "shirt t-shirt tshirt tee top coat jacket sweater jumper hoodie blouse sweatshirt cardigan vest blazer "
    "polo parka windbreaker",
    "lower": "trousers pants jeans shorts skirt leggings slacks sweatpants joggers",
    "dress": "dress gown suit uniform robe overall overalls",
    "shoes": "shoes sneakers boots sandals heels trainers loafers slippers footwear flats",
    "bag": "bag backpack handbag purse suitcase rucksack satchel luggage tote briefcase",
    "hat": "hat cap helmet beanie hood headscarf",
    "glasses": "glasses sunglasses spectacles",
    "scarf": "scarf tie shawl",
    "held": "umbrella phone bottle book camera laptop cup",
}  # fmt: skip
"""Slot -> the nouns that head its phrases."""
LOOKS = (
    "black white grey gray red green blue yellow purple pink orange brown beige khaki navy maroon cream tan silver "
    "gold golden turquoise teal violet olive burgundy blond blonde brunette ginger auburn multicoloured colourful "
    "striped plaid checkered checked floral patterned dotted camouflage knee-length long-sleeved short-sleeved "
    "sleeveless curly wavy denim leather cotton woollen wool knitted knit puffer padded fleece hooded button-up"
)
"""Words that say what something looks like, wherever they stand."""
MODIFIERS = (
    "dark light bright pale deep plain printed long short medium cropped straight down loose tight slim casual "
    "sports sport sporty athletic formal business large small big shoulder messenger sling hand school canvas "
    "plastic paper high running young old older elderly middle-aged tall thin adult baseball no"
)
"""Words that, with those of ``LOOKS``, stand before such a noun and belong to its phrase."""
DERIVED = {
    "he": ("he", "she"), "his": ("his", "her"), "him": ("him", "her"), "himself": ("himself", "herself"),
}  # fmt: skip
"""Pronoun -> of men and of women."""
MEN, WOMEN = frozenset("man boy gentleman guy male".split()), frozenset("woman girl lady female".split())
_UNCOUNTED = frozenset("hair luggage footwear".split())
_MODIFIER = "|".join(sorted(set(map(re.escape, f"{LOOKS} {MODIFIERS}".split())), key=len, reverse=True))
_HEAD = "|".join(sorted((re.escape(word) for words in HEADS.values() for word in words.split()), key=len, reverse=True))
_SLOT_OF = {word: slot for slot, words in HEADS.items() for word in words.split()}
_PHRASE = re.compile(
    rf"(?<![\w-])(?:(?P<article>an?)\s+)?(?P<words>(?:(?:{_MODIFIER})(?:\s*,\s*|\s+and\s+|\s+))*(?P<head>{_HEAD}))"
    rf"(?![\w-])|(?<![\w-])(?P<pronoun>he|she|his|her|him|himself|herself)(?![\w-])",
    re.IGNORECASE,
)
_SLOT = re.compile(r"\{(a )?([a-z]+)(?:_(\d+))?\}")
_SENTENCE = re.compile(r"(?:^|(?<=[.!?] ))[a-z]")
_HER = re.compile(r"her(?=\s+[a-z])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Parsed:
    """A description taken apart.

    Parameters
    ----------
    template : str
        With ``{slot}``, ``{a slot}`` where an article stood before it; ``{upper_2}`` is the second of its kind.
    values : mapping of str to str
        Slot -> words, without article.
    """

    template: str
    values: Mapping[str, str]


def parse(description: str) -> Parsed:
    """The template and the values of a description; one without any slot is its own template."""
    values: dict[str, str] = {}
    parts, end = list[str](), 0
    for match in _PHRASE.finditer(description):
        parts.append(description[end : match.start()])
        end = match.end()
        if match["pronoun"]:
            parts.append("{" + _pronoun(match["pronoun"].lower(), description[match.start() :]) + "}")
            continue
        slot = _SLOT_OF[match["head"].lower()]
        number = sum(_base(name) == slot for name in values) + 1
        name = slot if number == 1 else f"{slot}_{number}"
        values[name] = " ".join(match["words"].split()).lower()
        parts.append("{a " + name + "}" if match["article"] else "{" + name + "}")
    text = "".join([*parts, description[end:]])
    return Parsed(" ".join(text.split()), values)


def slots(template: str) -> list[str]:
    """Names of the slots of a template, pronouns among them, in their order."""
    return [match[2] + (f"_{match[3]}" if match[3] else "") for match in _SLOT.finditer(template)]


def left_over(template: str) -> list[str]:
    """Words of a template, outside of its slots, that say what one person looks like and would be said of all."""
    looks = set(LOOKS.split())
    return [word for word in re.findall(r"[\w-]+", _SLOT.sub(" ", template).lower()) if word in looks]


def unknown_slots(template: str) -> list[str]:
    """What stands in braces and is no slot."""
    known = {*HEADS, *DERIVED}
    return [text for text in re.findall(r"\{([^{}]*)\}", template)
            if not (match := _SLOT.fullmatch("{" + text + "}")) or match[2] not in known]  # fmt: skip


def fits(template: str, values: Mapping[str, str]) -> bool:
    """Whether the values of a description fill all slots of a template."""
    names = slots(template)
    wanted = {name for name in names if name not in DERIVED}
    return wanted <= values.keys() and (len(wanted) == len(set(names)) or _sex(values) is not None)


def filled(template: str, values: Mapping[str, str]) -> str:
    """A template with the values of a description; articles and the first letter of a sentence are made to fit."""
    sex = _sex(values)

    def words(match: re.Match[str]) -> str:
        name = match[2] + (f"_{match[3]}" if match[3] else "")
        if name in DERIVED:
            assert sex is not None  # ``fits`` was asked
            return DERIVED[name][sex]
        return _article(values[name]) + values[name] if match[1] else values[name]

    return _SENTENCE.sub(lambda match: match[0].upper(), _SLOT.sub(words, template))


def follows(template: str, answer: str) -> bool:
    """Whether an answer is the template with one to eight words in the place of each slot; case and marks are free."""
    pieces, end = list[str](), 0
    for match in _SLOT.finditer(template):
        pieces += [_bare(template[end : match.start()]), r"\w+(?: \w+){0,7}"]
        end = match.end()
    pattern = " ".join(piece for piece in [*pieces, _bare(template[end:])] if piece)
    return re.fullmatch(pattern, _bare(answer)) is not None


def shown(template: str) -> str:
    """A template as a model is shown it: ``[upper garment]``."""
    names = {"person": "man or woman", "upper": "upper garment", "lower": "lower garment", "held": "thing in the hand",
             "hat": "headwear", "his": "his or her", "he": "he or she", "him": "him or her"}  # fmt: skip
    return _SLOT.sub(lambda match: f"[{match[1] or ''}{names.get(match[2], match[2])}]", template)


def vocabulary(texts: Sequence[str]) -> int:
    """How many different words there are."""
    return len({word for text in texts for word in _bare(text).split()})


def _bare(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def _base(name: str) -> str:
    return name.partition("_")[0]


def _pronoun(word: str, rest: str) -> str:
    """Its name of a man; "her" before a word is "his", else "him"."""
    if word == "her":
        return "his" if _HER.match(rest) else "him"
    return {"she": "he", "herself": "himself"}.get(word, word)


def _sex(values: Mapping[str, str]) -> int | None:
    """0 of a man, 1 of a woman, None where the description does not say."""
    head = values.get("person", "").rpartition(" ")[2]
    return 0 if head in MEN else 1 if head in WOMEN else None


def _article(value: str) -> str:
    head = value.rpartition(" ")[2]
    plural = head.endswith("s") and not head.endswith("ss")
    if plural or head in _UNCOUNTED or value.startswith("no "):
        return ""
    return "an " if value[0] in "aeiou" else "a "
