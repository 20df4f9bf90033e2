"""``python -m luthier``."""

from luthier.cli.main import program

if __name__ == "__main__":
    program()
