"""`python -m steinadler`: the command line, for where its script is not on the path."""

from steinadler.cli import main

if __name__ == "__main__":
    main()
