"""What holds for every test."""

from hypothesis import settings

# A busy machine is no failure: hypothesis' 200 ms an example is off, pytest's own timeout stays.
settings.register_profile("k2", deadline=None)
settings.load_profile("k2")
