"""What speaks of abuse: signals, rules over them, hits for review, wrong codes."""
