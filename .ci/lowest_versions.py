"""Print constraints that hold each dependency of a user at the lowest version that pyproject.toml promises.

A user has the extras `app` and `logging`; the packages of `gpu` are compiled for one machine's CUDA and PyTorch, and
those of `dev` are pinned for a checkout.
"""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = project["optional-dependencies"]
for requirement in [*project["dependencies"], *extras["app"], *extras["logging"]]:
    print(re.sub(r"^([\w.-]+)>=([\w.]+).*", r"\1==\2", requirement))
