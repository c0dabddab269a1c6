"""A function that ends its process at once, as the system does to a process that takes too much memory."""

import os


def die(*arguments):
    os._exit(9)
