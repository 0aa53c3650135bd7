"""`python -m reasoning_compiler`, the same as `reasonc`."""

from reasoning_compiler.cli.watched import main

if __name__ == "__main__":
    main()
