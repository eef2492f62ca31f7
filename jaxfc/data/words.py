"""The word lists from which generated tasks are made, and the rule that holds some of them out."""

import hashlib
import random


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


TRAIN_NOUNS = _words(
    """
    account alarm album apartment appointment article balance bill book booking bus calendar camera campaign car
    channel charge class clinic coach comment company concert contact contract course coupon customer delivery device
    discount doctor document dose driver email employee event exam exercise ferry file flight folder forecast game
    garden gift grade guide gym hotel house image invoice job journal label lamp lesson letter library license list
    loan lunch map market meal meeting member menu message mortgage movie museum news note offer order
    """
)
TUNE_NOUNS = _words("package parcel patient payment permit photo playlist podcast policy poem")
HELD_OUT_NOUNS = _words("recipe reminder report room route schedule song table ticket voucher")

VERBS = {
    "get": ("get", "fetch", "show me", "look up"),
    "book": ("book", "reserve", "arrange"),
    "cancel": ("cancel", "call off", "drop"),
    "send": ("send", "forward", "dispatch"),
    "create": ("create", "make", "set up"),
    "update": ("update", "change", "modify"),
    "delete": ("delete", "remove", "erase"),
    "search": ("search for", "find", "hunt for"),
    "rate": ("rate", "review", "judge"),
    "share": ("share", "pass on", "spread"),
}
"""Verb of a tool's name -> how a query may say it."""

PLACES = _words(
    """
    Paris London Berlin Madrid Rome Vienna Oslo Dublin Lisbon Prague Athens Cairo Tokyo Seoul Delhi Lima Quito Boston
    Denver Austin Dallas Miami Seattle Toronto Sydney Perth Nairobi Accra Dakar Tunis Riga Turin Lyon Porto Ghent Bern
    Zurich Geneva Munich Hamburg Krakow Sofia Bergen Malmo Osaka Kyoto Hanoi Manila Jakarta Bogota
    """
)
PEOPLE = _words(
    """
    Anna Ben Carla David Emma Felix Grace Henry Irene Jonas Karen Liam Maria Nora Oscar Paula Quinn Rosa Simon Tara
    Uma Victor Wendy Xavier Yara Zoe Alan Bella Chris Diana Ethan Fiona George Hanna Isaac Julia Kevin Laura Martin
    Nina Oliver Peter Ruth Sarah Thomas Ursula Vera Walter Amir Priya
    """
)
THINGS = _words(
    """
    apple river stone cloud forest winter summer orange silver golden quiet happy bright ocean mountain window paper
    bridge candle coffee copper desert dragon eagle engine feather flower harbor honey island jacket kitchen ladder
    lemon marble meadow mirror needle onion pepper pillow planet pocket rabbit ribbon saddle shadow spider sugar
    sunset temple thunder tiger tunnel velvet violin walnut whale willow
    """
)
_CONSONANTS, _VOWELS = "bcdfghjklmnpqrstvwxz", "aeiouy"


def bucket(word: str, buckets: int = 5) -> int:
    """A stable pseudo-random number below `buckets`; values with bucket 0 are held out of training."""
    return hashlib.sha256(word.lower().encode()).digest()[0] % buckets


def made_up(rng: random.Random) -> str:
    """A word that is in no list: half are syllables, half any letters, so that copying is the only way to write it."""
    if rng.random() < 0.5:
        return "".join(rng.choice(_CONSONANTS) + rng.choice(_VOWELS) for _ in range(rng.randint(2, 4)))
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(3, 7)))
