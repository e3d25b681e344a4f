"""Identity: code fingerprints, stage keys, run records - the one place that answers 'is it the same?'."""
