"""Training a language model: the recipe, data as a function of the step, the loop, exact resuming, evaluation."""
