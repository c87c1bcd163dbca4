"""Programs outside the package, such as the table of an experiment, as modules."""

import importlib.util
import sys


def module_of(file):
    """The module in a file; one that is loaded again is new."""
    name = f"{file.parent.name}_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module
