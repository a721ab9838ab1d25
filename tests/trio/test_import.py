import subprocess
import sys


def test_without_trio_the_error_says_how_to_get_it() -> None:
    program = "import sys; sys.modules['trio'] = None; import wsconnkit.trio"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    last = run.stderr.splitlines()[-1]
    assert last == "ModuleNotFoundError: wsconnkit.trio needs trio; install it with: pip install 'wsconnkit[trio]'"
