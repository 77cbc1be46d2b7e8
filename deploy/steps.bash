# Sourced by deploy/demo, tests/run and .ci/run: steps that say what they are and how long they took.
export LC_ALL=C.UTF-8 HOME="${HOME:-/root}"
export CCACHE_BASEDIR="$PWD"

# step NAME COMMAND...: runs it; its status is the command's. A function it runs is not stopped by
# errexit (bash switches it off where a status is asked for) and must say `|| return 1` itself.
step() {
  local name=$1 start=$SECONDS status=0
  shift
  printf '== %s\n' "$name"
  "$@" || status=$?
  if ((status == 0)); then
    printf '== %s: %d s\n' "$name" $((SECONDS - start))
  else
    printf '== %s: FAILED (status %d) after %d s\n' "$name" "$status" $((SECONDS - start))
  fi
  return "$status"
}

configure() { cmake --preset "$1" >/dev/null; }  # PRESET
build() { cmake --build --preset "$1" -j"$(nproc)" "${@:2}"; }  # PRESET [--target ...]
