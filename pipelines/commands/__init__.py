"""The commands: one module for each verb of the Makefile, run as `python -m pipelines.commands.NAME`.

They import the wiring; no module of the wiring imports them.
"""
