"""Bounces and complaints: reports read, classified, matched to their message, acted upon."""
