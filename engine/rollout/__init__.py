"""Sample from the policy and score its responses."""
