"""The script that Streamlit runs at each interaction: the page of the app."""

import sys
from pathlib import Path

from mart_helpers.app import show

show(*map(Path, sys.argv[1:]))
