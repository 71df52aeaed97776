"""`python -m cryoaae` is `cryoaae`."""

from cryoaae.cli import main

if __name__ == "__main__":
    main()
