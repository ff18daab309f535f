"""Providers' callbacks, read: their shapes become receipts and answers of members."""
