# Sourced by the scripts: their way to Python, that of .venv if it is there.
# start COMMAND...: becomes the command; with --dry_run among its flags it is shown first.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[[ -d "$here/.venv/bin" ]] && export PATH="$here/.venv/bin:$PATH"

start() {
  if [[ " $* " == *" --dry_run "* ]]; then
    printf 'would run:'
    printf ' %q' "$@"
    printf '\n\n'
  fi
  exec "$@"
}
