"""Group buying: an offer that unlocks for all when enough members joined in time."""
