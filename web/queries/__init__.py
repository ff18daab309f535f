"""What the console's pages read: a module a page, each function one or a few set-based queries."""
