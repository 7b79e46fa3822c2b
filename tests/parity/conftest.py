"""Without torch (`make test`) the comparisons with torch are not even imported; `make parity` installs it."""

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("torch") else ["test_*_torch.py"]
