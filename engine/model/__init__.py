"""The model: Kimi K2's architecture at any size, its checkpoint format and its parameter table."""
