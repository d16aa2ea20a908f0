"""The modules of laion_clap, importable as sub-modules of this one, in any process, such as `laion_parts.htsat`.

The package itself is never run: on import it changes sys.path and asks a hub for three tokenizers.
"""

from __future__ import annotations

from importlib.util import find_spec

_package = find_spec("laion_clap")
__path__ = [f"{place}/clap_module" for place in _package.submodule_search_locations or ()] if _package else []
