"""WeCom: what a message may hold, and what became of those that an employee has to confirm."""
