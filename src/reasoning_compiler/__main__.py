"""The command's front door: `reasonc`, and `python -m reasoning_compiler`, which is the same."""

import sys

_WATCHED = ("tune", "resume", "compare", "ablate")
_HELP = ("--help", "-h")


def main() -> None:
    """Runs the command line and exits with its code; what searches is watched over, and all else is spared that."""
    arguments = sys.argv[1:]
    command = next((each for each in arguments if not each.startswith("-")), "")
    if command in _WATCHED and not set(_HELP) & set(arguments):
        from reasoning_compiler.cli.watched import watch

        sys.exit(watch(arguments, command))
    from reasoning_compiler.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
