"""Coupons and points: what a member holds, exact to the unit."""
