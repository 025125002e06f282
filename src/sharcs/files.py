"""The writing of files, which lies where the service without torch finds it, too."""

from sharcs_runtime.files import claimed, is_lock, replaced, write_json, written

__all__ = ["claimed", "is_lock", "replaced", "write_json", "written"]
