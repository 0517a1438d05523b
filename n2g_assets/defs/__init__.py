"""What the code location loads: one folder a study, and the resources."""
