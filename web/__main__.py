"""``python -m web``: the command line, where the script ``huiliu`` is not on the path."""

from web.cli import main

main()
