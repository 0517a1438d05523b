"""Thin Dagster assets, one module a stage, named in pipeline order; no algorithm lives in here.

``session`` is what a step works with, ``stage`` turns a per-layer stage into a partitioned asset, ``metadata`` says
what a step did in the UI, ``progress`` how far it is, ``checks`` holds the asset checks.
"""
