"""`python -m comfytunnel` and the command `comfytunnel` begin here, and only here."""

from comfytunnel.cli.main import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
