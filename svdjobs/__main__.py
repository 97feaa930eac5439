"""`python -m svdjobs` is `svdjobs`."""

from svdjobs.cli.main import main

if __name__ == "__main__":
    main()
