"""Assignment, moments, statistics and read-outs."""
