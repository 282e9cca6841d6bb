"""The tasks of the service's models, such as text generation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Task:
    """A task. `id`, `name`: as in the service's list of models. `description`: in our words."""

    id: str
    name: str
    description: str


TEXT_GENERATION = Task(
    "c329a1f9-323d-4e91-b2aa-582dd4188d34",
    "Text Generation",
    "Completes a prompt, or answers the messages of a chat.",
)
TEXT_EMBEDDINGS = Task(
    "0137cdcf-162a-4108-94f2-1ca59e8c65ee",
    "Text Embeddings",
    "Converts texts into vectors, whose distances show how similar the texts are.",
)
TEXT_CLASSIFICATION = Task(
    "19606750-23ed-4371-aab2-c20349b53a60",
    "Text Classification",
    "Scores texts, for example by how well they answer a query.",
)
