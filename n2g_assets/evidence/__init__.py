"""The pass through the corpus: what the activations of a study were, kept in shards."""
