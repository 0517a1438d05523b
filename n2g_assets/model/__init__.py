"""The subject model: its files, its weights and its activations. The only room that loads language models."""
