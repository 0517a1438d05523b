"""What makes units of what a hook carries: encoders, read as data and applied, and the model's own attention heads."""
