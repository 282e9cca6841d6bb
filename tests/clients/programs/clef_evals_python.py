"""Asks a decision model questions with clef-evals.

    python clef_evals_python.py BASE_URL ACCOUNT_ID TOKEN CASE...

Prints one JSON line for each case: its value or its error.
"""

# mypy: disable-error-code="import-not-found"
# The client is in its own folder, where mypy does not find it.

from __future__ import annotations

import sys

from clef_evals import ClefConfig, ClefJudge, Noul, Score
from outcomes import print_outcomes

TEAMS = {
    "billing": "Payments, invoices, refunds",
    "technical": "Bugs and outages",
    "sales": "Plans and upgrades",
}
ITEMS = [
    {"state": "Email: I need a refund", "gold": "billing"},
    {"state": "Checkout is down for everyone", "gold": "technical"},
]


def evaluate(judge: ClefJudge) -> object:
    items = [{**item, "instructions": "Which team?", "criteria": TEAMS} for item in ITEMS]
    result = judge.evaluate(items)
    return {"accuracy": result.accuracy, "failures": result.failures}


def types(judge: ClefJudge) -> object:
    questions = {
        "refund": Noul("Does the customer ask for a refund?", "a refund", "no refund"),
        "severity": Score("How severe is the impact?", ["None", "Minor", "Critical"]),
    }
    return vars(judge.run_questions({"text": "I need a refund"}, questions))["answers"]


def no_question(judge: ClefJudge) -> object:
    return judge.run_questions("Hi", {"q": Noul("")})


def main(base_url: str, account_id: str, token: str, *names: str) -> None:
    config = ClefConfig(account_id, token, "@cf/cloudflare/clef-flash", base_url, max_retries=0)
    print_outcomes((evaluate, types, no_question), names, ClefJudge(config))


if __name__ == "__main__":
    main(*sys.argv[1:])
