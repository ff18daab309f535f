"""Tiers: a ladder of members by points earned, spend or orders, with moves and benefits."""
