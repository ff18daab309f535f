"""Stand-ins for every provider on loopback, verifying as the real ones do."""
