"""Explanations that others have of a study's units: their words, and what they predict of each token."""
