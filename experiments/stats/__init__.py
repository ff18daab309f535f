"""Pure statistics on centred moments."""
