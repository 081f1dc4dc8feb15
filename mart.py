"""`python -m mart`: the notebooks from the command line."""

from mart_helpers.command_line import main

if __name__ == "__main__":
    raise SystemExit(main())
