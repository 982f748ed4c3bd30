"""`python -m fqlstream.cli`: the command, where no script of that name is on the PATH."""

from fqlstream.cli.main import run

if __name__ == "__main__":
    run()
