"""Campaigns: decide, run, and what it was worth."""
