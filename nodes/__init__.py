"""The work: one package a stage; what the stage does, with no path and no machine."""
