"""What is compared of conversations in training and in requests, to see whether they drift.

It is numbers, never words, and of what the client sent: passages of a knowledge base are not counted.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from mizzen.workloads.chat.data import Conversations
from mizzen.workloads.chat.tokens import prompt_ids
from mizzen.workloads.contract import Features

MAX_PROMPTS = 2_000
"""Prompts of the training data that are looked at; a thousand take a second or so."""


def of(tokenizer: Any, said: Sequence[tuple[str, str]], num_prompt_tokens: int) -> dict[str, list[float]]:
    """Features of a prompt: `said` are roles and texts of its messages, of which one is a user's at least."""
    question = next((text for role, text in reversed(said) if role == "user"), "")
    return {
        "messages": [len(said)],
        "prompt_tokens": [num_prompt_tokens],
        "question_tokens": [len(tokenizer.encode(question, add_special_tokens=False))],
    }


def in_training(conversations: Conversations, tokenizer: Any) -> Features:
    """Of prompts as requests send them: what stands before each of the assistant's turns."""
    found: dict[str, list[float]] = {}
    num_prompts = 0
    for index in random.Random(0).sample(range(len(conversations)), len(conversations)):
        messages = conversations[index]
        for turn in [i for i, message in enumerate(messages) if message["role"] == "assistant"]:
            said = [(message["role"], message["content"]) for message in messages[:turn]]
            if all(role != "user" for role, _ in said):
                continue
            num_tokens = len(prompt_ids(tokenizer, messages[:turn]))
            for name, values in of(tokenizer, said, num_tokens).items():
                found.setdefault(name, []).extend(values)
            num_prompts += 1
        if num_prompts >= MAX_PROMPTS:
            break
    return found
