"""`python -m loradock`: the same as the `loradock` command."""

from loradock.cli.main import main

if __name__ == "__main__":
    main()
