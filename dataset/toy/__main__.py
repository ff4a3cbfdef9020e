"""`python -m dataset.toy`."""

from dataset.toy.world import main

if __name__ == "__main__":
    raise SystemExit(main())
