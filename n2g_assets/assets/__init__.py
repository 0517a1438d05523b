"""Thin Dagster assets, in pipeline order; no algorithm lives in here.

``session`` is what a step works with, ``stage`` turns the code of a stage into an asset, ``metadata`` says what a step
did in the UI, ``progress`` how far it is, ``checks`` holds the asset checks.
"""
