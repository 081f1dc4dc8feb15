"""What a kernel says before a notebook has opened the mart, such as after a restart.

An IPython extension, which the kernels of the environment load that `make` sets up. A plain kernel
knows no `%%sql` and can say only that.
"""

from pathlib import Path

from IPython.core.error import UsageError
from IPython.core.getipython import get_ipython
from IPython.core.interactiveshell import ExecutionResult, InteractiveShell

from mart_helpers.parameters import home

WAY_OUT = (
    "This kernel is new: no cell of it has opened the mart. Run the cells from the top of the notebook "
    "first, in JupyterLab with Run > Run All Above Selected Cell."
)


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Have `%%sql` and a name that is not defined tell the way out, until the mart has been opened."""
    shell.register_magic_function(_no_mart_yet, "cell", "sql")
    shell.events.register("post_run_cell", _after_cell)


def _no_mart_yet(line: str, cell: str) -> None:
    raise UsageError(WAY_OUT)


def _after_cell(result: ExecutionResult) -> None:
    is_ours = Path.cwd() == home() / "notebooks"
    is_new = get_ipython().magics_manager.magics["cell"].get("sql") is _no_mart_yet
    if is_ours and is_new and isinstance(result.error_in_exec, NameError):
        print(WAY_OUT)
