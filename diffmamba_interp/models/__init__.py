"""Hooked language models: mixers, blocks, the model, and the formats of its checkpoints."""
