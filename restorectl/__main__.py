"""`python -m restorectl` is the `restorectl` command."""

from restorectl.cli.app import main

if __name__ == "__main__":
    main()
