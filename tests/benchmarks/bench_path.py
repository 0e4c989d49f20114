"""How many functions and modules of the package one command passes: the length of its way.

    python tests/benchmarks/bench_path.py restore IMAGE -o OUT
    python tests/benchmarks/bench_path.py --list superres3d STACK -o OUT

Counted are public functions and methods that another module calls (properties, constructors and
nested functions left out), and, beside them, every function that runs at all. The command is run
in this process, as the command line would.
"""

import sys
import threading
from types import FrameType
from typing import Any

PACKAGE = "restorectl"
Found = dict[tuple[str, str], None]  # (module, qualified name), in the order of their first calls


class Tracer:
    """Notes which functions of the package run, and which of them another module called."""

    def __init__(self) -> None:
        self.run: Found = {}
        self.crossed: Found = {}

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        module = frame.f_globals.get("__name__", "")
        if event != "call" or not module.startswith(PACKAGE) or frame.f_code.co_name[0] == "<":
            return
        place = (module, frame.f_code.co_qualname)
        self.run[place] = None
        caller = frame.f_back
        while caller is not None and not _is_ours(caller):
            caller = caller.f_back
        if caller is None or caller.f_code.co_name == "<module>":
            return
        if caller.f_globals["__name__"] != module:
            self.crossed[place] = None


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).startswith(PACKAGE)


def public_functions(found: Found) -> list[tuple[str, str]]:
    """Those that are neither private, nested, properties, classes nor written by dataclasses."""
    kept = []
    for module, name in found:
        if "<locals>" in name or name.rpartition(".")[2].startswith("_"):
            continue
        thing: Any = sys.modules[module]
        for part in name.split("."):
            thing = getattr(thing, part, None)
        if thing is not None and not isinstance(thing, property | type):
            kept.append((module.removeprefix(f"{PACKAGE}."), name))
    return kept


def main() -> None:
    listed = "--list" in sys.argv
    sys.argv = [PACKAGE, *(word for word in sys.argv[1:] if word != "--list")]
    tracer = Tracer()
    sys.setprofile(tracer)
    threading.setprofile(tracer)
    try:
        from restorectl.cli.app import main as command

        command()
    except SystemExit:
        pass
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    for label, found in (("called from another module", tracer.crossed), ("all", tracer.run)):
        kept = public_functions(found)
        modules = {module for module, _ in kept}
        print(f"{label}: {len(kept)} public functions in {len(modules)} modules")
    if listed:
        for module, name in public_functions(tracer.crossed):
            print(f"{module}: {name}")


if __name__ == "__main__":
    main()
