"""The ``kvstore`` command: parse, call, present. No decisions about the store here.

Where things are: ``main`` names the commands without importing them (so that
``kvstore --help`` needs neither grpc nor lmdb), ``options`` holds the options that
commands share, ``output`` what they print with, ``errors`` the exit codes.
"""
