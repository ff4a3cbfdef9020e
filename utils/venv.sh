# Sourced by quickstart.sh and run_tests.sh.
# make_venv FOLDER FILE.txt: makes FOLDER/.venv, installs FOLDER/FILE.txt into it, puts it on PATH.
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

# Passes pip's output on, shortened: one line for each package, errors in full.
show_pip() {
  awk '/^Collecting /        { print "  " ++count " " $2; fflush(); next }
       /^Installing collected/ { print "  installing (this takes a while) ..."; fflush(); next }
       /^ERROR|^error/ { print; fflush() }'
}

make_venv() {
  local root=$1 requirements=$2 python stamp state
  local venv=$root/.venv
  if ! "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
    python=$(find_python) || return 2
    echo "making .venv with $("$python" --version)"
    rm -rf "$venv"
    if ! "$python" -m venv "$venv"; then
      rm -rf "$venv"
      echo "error: $python cannot make a virtual environment;" \
        "on Debian and Ubuntu: apt-get install python3-venv" >&2
      return 2
    fi
  fi
  export PATH="$venv/bin:$PATH"
  stamp=$venv/installed-$requirements
  state=$(cat "$root/requirements.txt" "$root/$requirements" | sha256sum)
  if [ "$(cat "$stamp" 2>/dev/null)" = "$state" ]; then
    return 0
  fi
  echo "installing $requirements into .venv"
  if ! python -m pip install --disable-pip-version-check --progress-bar off \
    -r "$root/$requirements" 2>&1 | show_pip; then
    echo "error: the installation of $requirements failed; the lines above say why" >&2
    return 2
  fi
  echo "$state" > "$stamp"
}
