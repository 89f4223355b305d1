"""From results to a verdict on a statement."""
