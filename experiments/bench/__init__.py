"""How fast it is: ratios of times, each measured within one run."""
