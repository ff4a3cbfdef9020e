#!/usr/bin/env bash
# Build the site of these pages into site/. A warning, such as a link to nowhere, is an error.
#
#   bash docs/build.sh [further flags of mkdocs build]
#   .venv_docs/bin/mkdocs serve     shows it while pages are written
#
# Makes .venv_docs from requirements-docs.txt. A CPU does; nothing of the model is installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv="${READ_DOCS_VENV:-.venv_docs}"
if [[ ! -x "$venv/bin/mkdocs" ]]; then
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet -r requirements-docs.txt
fi
exec "$venv/bin/mkdocs" build --strict "$@"
