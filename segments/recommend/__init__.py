"""Which products a member may want next, for messages and for the console."""
