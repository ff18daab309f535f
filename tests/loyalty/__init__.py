"""Tests of the loyalty package."""
