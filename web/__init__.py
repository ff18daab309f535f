"""The console, the HTTP API, the public pages and the command line."""
