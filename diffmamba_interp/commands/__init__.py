"""What the commands do once their options are known: the order of a run, and nothing more."""
