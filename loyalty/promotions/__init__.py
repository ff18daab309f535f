"""Promotions: what a basket costs after them, decided purely; and the shop's own, stored."""
