# For `demo` and `test`, which read this file: prepare NAME EXTRA sees to a virtual environment beside the sources, with
# the package and its EXTRA, and sets `python` to its interpreter. The network is needed the first time, and when
# pyproject.toml has changed or the sources have moved.

prepare() {
  python=${PYTHON:-python3}
  version=$("$python" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3]); sys.exit(sys.version_info < (3, 10))' \
    2>/dev/null) || {
    echo "wsconnkit needs Python 3.10 or newer; $python is ${version:-not there}." >&2
    echo "Name another one: PYTHON=python3.12 sh $0" >&2
    exit 1
  }
  venv=.venv-$1-$version
  wanted=$(pwd && cat pyproject.toml)
  if [ ! -x "$venv/bin/python" ] || [ "$(cat "$venv/installed" 2>/dev/null)" != "$wanted" ]; then
    "$python" -c 'import ensurepip, venv' 2>/dev/null || {
      echo "$python has no venv and pip; on Debian and Ubuntu: apt install python3-venv" >&2
      exit 1
    }
    echo "Installing wsconnkit and what it needs into $venv, once; that takes up to a minute." >&2
    "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install --disable-pip-version-check --editable ".[$2]" >&2
    printf '%s\n' "$wanted" >"$venv/installed"
  fi
  python=$venv/bin/python
}
