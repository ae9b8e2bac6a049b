from diffmamba_interp.needle.haystack import answer_text, format_prompt, prompt_tail


def test_the_prompt_has_the_papers_format() -> None:
    prompt = format_prompt("Mary went out. It rained.", "Where is Mary?")
    assert prompt == "<context>Mary went out. It rained.</context> Question: Where is Mary? Answer:"
    assert prompt.endswith(prompt_tail("Where is Mary?"))


def test_the_space_belongs_to_the_answer() -> None:
    assert answer_text("garden") == " garden"
