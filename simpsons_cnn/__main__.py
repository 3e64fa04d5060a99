"""`python -m simpsons_cnn COMMAND …` is `simpsons_COMMAND …`, for where the scripts are not on the path."""

import sys
from importlib import import_module

COMMANDS = {
    "train": ("cli.train", "train a network"),
    "runs": ("cli.runs", "list runs and compare them"),
    "ensemble": ("cli.ensemble", "put several models into one file"),
    "predict": ("cli.predict", "name the character in pictures"),
    "evaluate": ("cli.predict", "judge a model on pictures with known names"),
    "explain": ("cli.explain", "show which parts of a picture an answer rests on"),
    "export": ("cli.export", "write a model for other programs"),
    "data": ("cli.data", "draw, unpack or fetch pictures"),
    "audit": ("cli.data", "find broken, duplicate and leaking pictures"),
    "bench": ("cli.bench", "measure how fast this machine is"),
}


def usage() -> str:
    lines = [f"  {name:10}{text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(["usage: python -m simpsons_cnn COMMAND …", "", *lines])


def main(argv: list):
    "Run a command; without one, or with one that is unknown, list them"
    name = argv[0].removeprefix("simpsons_") if argv else "--help"
    if name == "--version":
        print(f"simpsons_cnn {import_module('simpsons_cnn').__version__}")
    elif name in COMMANDS:
        module = import_module(f"simpsons_cnn.{COMMANDS[name][0]}")
        getattr(module, f"simpsons_{name}")(argv[1:])
    elif name in ("-h", "--help"):
        print(usage())
    else:
        sys.exit(f"error: unknown command {name!r}\n{usage()}")


if __name__ == "__main__":
    main(sys.argv[1:])
