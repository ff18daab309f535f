"""Consent, templates, outbox, delivery and what comes back, over e-mail, SMS and WeChat."""
