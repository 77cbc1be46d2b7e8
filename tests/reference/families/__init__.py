"""The families of models, one module for each: its tiny checkpoints, and what of transformers it changes.

A module has
  MODEL_TYPE        config.json's
  CASES             its checkpoints, a list of case.Case
  patch()           changes transformers where it departs from the authors' code, and makes its gates record
  publish(config)   optional: rewrites the config.json of transformers 5 to the authors' keys, where they
                    differ in more than what make_checkpoints.py rewrites for all
  finish(case, directory)  optional: changes what transformers saved to what the authors publish
  write(case, directory, randomise), load(directory, dtype)  optional: the checkpoint and the model, where
                    transformers has none; a torch.nn.Module that is called and looked into like transformers'
"""

import importlib
import pkgutil

_modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
FAMILIES = {module.MODEL_TYPE: module for module in _modules if hasattr(module, "MODEL_TYPE")}


def patch_transformers():
    for module in FAMILIES.values():
        module.patch()
