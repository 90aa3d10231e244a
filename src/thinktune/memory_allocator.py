"""Keep freed CPU memory instead of handing each tensor's pages back to the system."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _LARGEST = -1, -4, 2**31 - 1


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to reuse large blocks; a step's tensors come and go every layer.

    By default each tensor above 32 MB at most is mapped afresh and its pages zeroed by the
    kernel at first touch, every time. Says whether it could be done (Linux with glibc).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _LARGEST))
