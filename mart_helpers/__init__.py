"""What SQL cannot say for the notebooks: sessions, loading, publishing, checks, reports."""

from time import time

LOADED_AT = time()  # where a file of this package is younger, what runs is not what it says
