"""The commands: one module a verb that people type, run by the Makefile as `python -m pipelines.commands.NAME`.

They stand on the wiring; nothing of the wiring imports them.
"""
