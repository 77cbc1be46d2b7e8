# Sourced by the lines of tests/shows: measurements beside their targets. Runs in the root of the tree.
set -euo pipefail
source deploy/steps.bash
bin=build/release/bin
missed=0

# measure WHAT VALUE OP TARGET [UNIT]: OP is one of <= >= < > ==; prints it, remembers a miss. What is no number is one:
# awk would take it for a text, which may well be less than a number.
measure() {
  local verdict=ok
  [[ $2 =~ ^[-+]?[0-9]*\.?[0-9]+([eE][-+]?[0-9]+)?$ ]] && awk -v a="$2" -v b="$4" "BEGIN { exit !(a $3 b) }" ||
    { verdict=MISSED missed=1; }
  printf '%-58s %12s   target %s %s %s   %s\n' "$1" "$2" "$3" "$4" "${5:-}" "$verdict"
}

# need TARGET...: builds them in build/release.
need() {
  [[ -f build/release/build.ninja ]] || configure release
  build release --target "$@" >build/shows.log 2>&1 || { tail -n 30 build/shows.log; exit 1; }
}

now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.2f", b - a }'; }

finish() { exit "$missed"; }
