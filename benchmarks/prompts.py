"""The prompts of the benchmarks. All prompts are different, and each asks for a long text."""

from __future__ import annotations

from itertools import product

_WHO = (
    "a fox", "two old sailors", "the last baker", "a curious robot", "three sisters", "a lost dog",
    "the night watchman", "a young queen", "a clumsy wizard", "the clockmaker", "a shy dragon",
    "an honest thief",
)  # fmt: skip
_WHERE = ("in a snowed-in village", "on a river boat", "under the city", "at sea", "in the desert")
_SUBJECTS = [f"{who} {where}" for where, who in product(_WHERE, _WHO)]

PROMPTS = [f"Tell a long story about {subject}." for subject in _SUBJECTS]
WARM_UP = "Count from one to twenty."

SYSTEM_PROMPT = (  # about 200 tokens
    "You are a storyteller who has travelled the whole world and remembers every person, every "
    "road and every meal. You speak in plain words and short sentences. You begin each story in "
    "the middle of things, and only then explain who is there and why. You never say that you "
    "are a machine, and you never apologise. When somebody in the story speaks, let them speak "
    "for themselves. Name the weather, the light and the sounds, but only when they matter. Give "
    "every character one wish and one fear, and let both of them be seen before the end. Do not "
    "explain what the story means. Do not end with advice. If you are asked for something other "
    "than a story, tell the story of somebody who was asked the same thing and what they did. "
    "Keep all stories fit for children, but do not talk down to anybody. Use no lists and no "
    "headings. Write until the story is finished, however long that takes, and then stop."
)

LONG_PROMPT = (  # about 2,000 tokens
    "Here is the plan of a very long book. "
    + " ".join(
        f"In chapter {number} we meet {subject}, hear at length how it all began, and are "
        "told at last what came of it."
        for number, subject in enumerate(_SUBJECTS, start=1)
    )
    + " How does it begin?"
)
