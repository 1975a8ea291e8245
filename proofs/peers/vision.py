"""torchvision, in an environment whose torch it was not built for."""

import importlib.util
import re
import sys
from pathlib import Path


def load_torchvision() -> None:
    """Let torchvision load where its compiled operations do not fit the build of torch: resizing is torch's own."""
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        spec = importlib.util.find_spec("torchvision")
        text = "".join(path.read_text() for path in Path(spec.origin).parent.glob("_*_registrations.py"))
        load_torchvision.library = torch.library.Library("torchvision", "FRAGMENT")  # the names live as long as it does
        for name in sorted(set(re.findall(r'(?:torchvision::|register_meta\(")(\w+)', text))):
            load_torchvision.library.define(f"{name}(Tensor x) -> Tensor")
