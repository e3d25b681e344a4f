"""Sampling from the policy and scoring what it says."""
