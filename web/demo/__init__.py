"""The demo: real shopping baskets, made-up people, a campaign and its result."""
