"""One module a provider: how a message leaves the house."""
