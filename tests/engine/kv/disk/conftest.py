"""The folder of the store's own tests, for what turns arrays into records."""

from tests.kv_disk.conftest import disk

__all__ = ["disk"]
