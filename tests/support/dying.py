"""What a process that fits a router may do in place of its work: die at once, as the system does to one that takes too much memory, or send an error."""

import errno
import os


def die(*arguments):
    os._exit(9)


def want_memory(sender, *arguments):
    sender.send(MemoryError("Unable to allocate 1.2 GiB for an array"))


def fill_disk(sender, *arguments):
    sender.send(OSError(errno.ENOSPC, "No space left on device"))
