"""Encoders whose latents are units: sparse autoencoders, transcoders and plain directions, read as data and applied."""
