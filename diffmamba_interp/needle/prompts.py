"""The prompt of the retrieval tasks, as in the Diff-Mamba paper (arXiv 2507.06204, section 4.3)."""

from __future__ import annotations

from diffmamba_interp.argument_checks import checked

CONTEXT_OPEN = "<context>"
CONTEXT_CLOSE = "</context>"


@checked
def format_prompt(context: str, question: str) -> str:
    """`<context>{context}</context> Question: {question} Answer:`, without a space at the end."""
    return f"{CONTEXT_OPEN}{context}{prompt_tail(question)}"


def prompt_tail(question: str) -> str:
    """What follows the context."""
    return f"{CONTEXT_CLOSE} Question: {question} Answer:"


@checked
def answer_text(label: str) -> str:
    """What a model that answers `label` continues the prompt with: the space belongs to the answer."""
    return f" {label}"
