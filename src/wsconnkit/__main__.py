"""`python -m wsconnkit` is the `wsconnkit` command."""

from wsconnkit.cli import main

if __name__ == "__main__":
    main()
