# Sourced by quickstart.sh and run_tests.sh.
# make_venv FILE.txt: makes .venv in the current folder and installs the requirement file into it.
# A second call with unchanged files returns at once. PYTHON=/path/to/python3 chooses the interpreter.

find_python() {
  local candidate
  for candidate in "${PYTHON:-python3}" python3 python3.13 python3.12 python3.11 python3.10; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
      echo "$candidate"
      return 0
    fi
  done
  echo "error: Python 3.10 or newer is needed; install it, or name one: PYTHON=/path/to/python3" >&2
  return 2
}

# Passes pip's output on, shortened: one line for each package, errors and warnings in full.
show_pip() {
  awk '/^Collecting /        { print "  " ++count " " $2; fflush(); next }
       /^Installing collected/ { print "  installing (this takes a while) ..."; fflush(); next }
       /^ERROR|^error|^WARNING/ { print; fflush() }'
}

make_venv() {
  local requirements=$1 python stamp state
  if ! .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
    python=$(find_python) || return 2
    echo "making .venv with $("$python" --version)"
    rm -rf .venv
    if ! "$python" -m venv .venv; then
      echo "error: $python cannot make a virtual environment;" \
        "on Debian and Ubuntu: apt-get install python3-venv" >&2
      return 2
    fi
  fi
  PATH="$PWD/.venv/bin:$PATH"
  export PATH
  stamp=.venv/installed-$(basename "$requirements")
  state=$(cat requirements.txt "$requirements" | sha256sum)
  if [ "$(cat "$stamp" 2>/dev/null)" = "$state" ]; then
    return 0
  fi
  echo "installing $requirements into .venv"
  if ! .venv/bin/python -m pip install --disable-pip-version-check --progress-bar off \
    -r "$requirements" 2>&1 | show_pip; then
    echo "error: the installation of $requirements failed; the lines above say why" >&2
    return 2
  fi
  echo "$state" > "$stamp"
}
