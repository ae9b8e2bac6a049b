"""What the questions in `analyses/` share: how one is asked (`question`), of which prompts (`prompts`), under which
conditions (`conditions`), what is kept of it (`results`), and how its page is written (`page`)."""
