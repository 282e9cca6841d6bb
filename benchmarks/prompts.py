"""The prompts of the benchmarks. All prompts are different, and most ask for a long text."""

from __future__ import annotations

from itertools import cycle, islice, product

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

SHORT_PROMPTS = (
    "Why is pizza so good?",
    "How does a bicycle stay upright?",
    "Write a Python function that reverses a list, and explain it.",
    "List ten facts about cats.",
    "How do I boil an egg?",
    "Plan a week in Rome for a family with two children.",
)

_TEXTS = (
    # The first text contains spelling mistakes, because a prompt asks for their correction.
    "The old harbour of Lindholm closed for big ships in 1974, but the town has never stoped "
    "living with the water. Every morning at half past five, the fishing boats come back with "
    "herring, cod and sometimes a box of crabs. The fishermen sell there catch on the eastern "
    "quay, where a simple wooden roof protects the tables from the rain. At eight o'clock most of "
    "the fish is gone. Then the ferry to the islands leaves, and the quay belongs to the children, "
    "who try to catch what the boats have lost. Visitors should begin at the lighthouse. It was "
    "built in 1861 out of grey stone, and it has one hundred and twelve steps. From the top you "
    "can see the salt works, the three islands, and on clear days the coast of the mainland. The "
    "lighthouse keeper, Marta Ek, retired in 1998. She still opens the tower every saturday, and "
    "she knows a story about every stone. Below the lighthouse is the museum of the salt works. "
    "It shows how salt was boiled from sea water in flat iron pans, how the workers lived, and why "
    "the works had to close when salt became cheap. The most valuable object is a small account "
    "book from 1789, in which a clerk wrote down every sack of salt that left the harbor. For "
    "lunch, the inn at the bridge serves fish soup with dark bread. The soup is made from what the "
    "boats have braught in the morning, so it tastes different every day. In the evening, people "
    "meet on the western pier, watch the lights of the ferry, and talk about the whether.",
    "To: all members of the garden club. From: Henrik Lund, treasurer. Dear members, the annual "
    "meeting took place on 14 March in the town library, and thirty-eight of our sixty-one members "
    "came. The most important decision first: the club will rent the field behind the school for "
    "five years. The rent is 420 euros a year. The school pays for the fence, and we pay for the "
    "water pipe, which will cost about 1,150 euros. Anna Berg and Tomas Holm will lead the work, "
    "which begins on 2 April at nine o'clock. Please bring gloves and, if you have one, a spade. "
    "The second decision concerns the fee. It stays at 25 euros for adults and 10 euros for "
    "students, but from next year it must be paid before the end of February. Members who pay "
    "later get no key to the tool shed until they have paid. The third decision was a close one: "
    "with nineteen votes against seventeen, and two members who did not vote, the meeting decided "
    "to sell the old tractor. The money will be used for a small greenhouse. Offers for the "
    "tractor should reach me before 1 May. Finally, the seed exchange will be held on 26 April "
    "from ten to one in the gymnasium. Every packet needs a label with the name of the plant, the "
    "year of the harvest and your own name. Last year eleven packets had no label, and some of "
    "us are still waiting to find out what is growing in our gardens. My thanks go to Ines Vogel, "
    "who kept the accounts for nine years without a single mistake. With kind regards, Henrik "
    "Lund.",
)
_TEXT_QUESTIONS = (
    "Repeat the following text word for word:",
    "Correct the spelling mistakes in the following text, and change nothing else:",
    "Quote the three most important sentences of the following text:",
)
TEXT_PROMPTS = [f"{question}\n\n{text}" for text, question in product(_TEXTS, _TEXT_QUESTIONS)]


def long_prompt(num_words: int, first: int = 0) -> str:
    """Returns a prompt of `num_words` words: the plan of a book, and a question.

    `first`: the index of the subject with which the plan begins. Prompts with different first
    subjects have different beginnings.
    """
    sentences = (
        f"The chapter about {subject} is number {number} of the book, tells at length how it all "
        "began, and ends with what came of it."
        for number, subject in enumerate(islice(cycle(_SUBJECTS), first, None), start=1)
    )
    question = ["How", "does", "it", "begin?"]
    words = (word for sentence in sentences for word in sentence.split())
    return " ".join([*islice(words, num_words - len(question)), *question])
