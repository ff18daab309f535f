"""The official account beyond sending: encryption, what followers do, windows and grants, binding."""
