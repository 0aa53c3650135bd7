"""`python -m reasoning_compiler`, the same as `reasonc`."""

from reasoning_compiler.cli.main import main

if __name__ == "__main__":
    main()
