"""Files as the project reads and writes them: whole or not there, JSON with one rule, sums that are checked."""
