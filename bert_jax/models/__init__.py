"""The model math: pure functions and Flax modules, without data, devices or parallelism."""
