"""``python -m maskweave`` is ``maskweave``."""

from maskweave.cli.main import main

if __name__ == "__main__":
    main()
