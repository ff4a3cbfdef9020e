# Sourced by run_tests.sh.
# get_browser: installs a Chromium for the tests of pages, where there is none, apt-get is there, and
# this user may install packages. Without success it says so in one line, and the tests go on.

find_browser() {
  [ -n "${READ_CHROMIUM:-}" ] && return 0
  python -c 'from tests.browser import find_chromium; raise SystemExit(not find_chromium())' \
    2> /dev/null
}

get_browser() {
  local root=() package install
  find_browser && return 0
  if [ "$(id -u)" != 0 ]; then
    root=(sudo -n)
  fi
  if command -v apt-get > /dev/null && "${root[@]}" true 2> /dev/null; then
    echo "installing a browser for the tests of pages"
    install=("${root[@]}" env DEBIAN_FRONTEND=noninteractive timeout 300 apt-get -q -y)
    "${install[@]}" update &> /dev/null || true
    for package in chromium-headless-shell chromium; do
      "${install[@]}" install --no-install-recommends "$package" fonts-dejavu-core \
        &> /dev/null || true
      find_browser && return 0
    done
  fi
  echo "no browser, so pages are not tested: install Chromium (Debian: apt-get install" \
    "chromium-headless-shell), or name one: READ_CHROMIUM=/path/to/it" >&2
}
