"""The rephrase stage: style- and perspective-diverse rewriting with a fidelity gate."""
