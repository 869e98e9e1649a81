"""When to use compiled code, and where it is kept.

Numba translates a Python function into machine code when it is first called. All kernels of this package together take
some ten seconds, so the translation is stored on disk and small inputs never ask for it. Numba itself would store it
next to the sources, which an installed package often may not; here it goes to the user's cache folder, below a name
made from the sources: numba looks only at the file of the outermost kernel, and would take old code when a function
that it calls has changed.

    NUMBA_CACHE_DIR, else XDG_CACHE_HOME/cs336/numba, else ~/.cache/cs336/numba

Left out: compilation ahead of time (it would need a compiler when the package is built). Read next:
`compiled_splitting.py`.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

Engine = Literal["auto", "plain", "compiled"]

# Loading machine code takes about a second and making it, once after an installation, ten; the plain path trains on or
# encodes a few megabytes a second.
MIN_COMPILED_BYTES = 16 << 20

_STORING = threading.Lock()  # the folder is a setting of the whole process


def use_compiled(engine: Engine, num_bytes: int) -> bool:
    """Whether to take the compiled path for an input of `num_bytes`.

    Args:
        engine: "plain" or "compiled" to insist, "auto" for compiled code where it pays and numba is installed.
        num_bytes: size of the input.

    Raises:
        ValueError: another word.
        ImportError: "compiled" is asked for and numba is missing.
    """
    if engine not in ("auto", "plain", "compiled"):
        raise ValueError(f"engine must be 'auto', 'plain' or 'compiled'; got {engine!r}")
    if engine == "plain" or (engine == "auto" and num_bytes < MIN_COMPILED_BYTES):
        return False
    # Words are compared through 8-byte loads whose masks assume the low byte first.
    available = sys.byteorder == "little" and importlib.util.find_spec("numba") is not None
    if engine == "compiled" and not available:
        raise ImportError("engine='compiled' needs numba on a little-endian machine: pip install numba")
    return available


def cache_folder(package: Path = Path(__file__).parent) -> Path:
    """Where the machine code of a package is stored; see the module's description.

    Args:
        package: folder of the kernels. They may call each other and those of this package.
    """
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    base = Path(os.environ.get("NUMBA_CACHE_DIR") or user / "cs336" / "numba")
    digest = hashlib.sha256()
    ours = Path(__file__).parent
    for folder in sorted({ours, package}):
        for source in [ours / "unicode_classes.py", *sorted(folder.glob("compiled_*.py"))]:
            digest.update(source.read_bytes())
    return base / digest.hexdigest()[:16]


@functools.cache
def stored(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """The same kernel, its machine code read from disk or put there; memory only, with a warning, if that fails."""
    import numba

    with _STORING:
        settings: Any = numba.config
        former = settings.CACHE_DIR
        try:
            folder = cache_folder(Path(kernel.py_func.__code__.co_filename).parent)  # type: ignore[attr-defined]
            folder.mkdir(parents=True, exist_ok=True)
            settings.CACHE_DIR = str(folder)
            kernel.enable_caching()  # type: ignore[attr-defined]
        except (OSError, RuntimeError) as error:
            warnings.warn(
                f"compiled code cannot be stored ({error}) and is compiled anew in each process; "
                "set NUMBA_CACHE_DIR to a folder you can write to",
                stacklevel=2,
            )
        finally:
            settings.CACHE_DIR = former
    return kernel
