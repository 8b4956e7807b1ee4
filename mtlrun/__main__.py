"""``python -m mtlrun``."""

from mtlrun.cli import main

if __name__ == "__main__":
    main()
