#!/usr/bin/env bash
# The ordinary suite, two tests at a time: tests/suite.sh PYTHON [pytest's arguments]
#
# Hundreds of these tests run real programs with real deadlines, on machines that other work shares.
# Up to MOST that failed beside the others run once more, alone and by name; the suite passes only if
# all of these pass then, and says which they were.  More failures than that are no accident.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
python=$1; shift
MOST=4
cache=$(mktemp -d)
trap 'rm -rf "$cache"' EXIT
failed=$cache/names

"$python" -m pytest -o cache_dir="$cache" --numprocesses 2 --dist loadfile "$@"
status=$?
# 1: some tests failed; anything else (interrupted, usage, nothing found) is no test's failure.
((status == 1)) || exit $status
"$python" - "$cache" >"$failed" <<'END'
import json, pathlib, sys
found = pathlib.Path(sys.argv[1], "v/cache/lastfailed")
print("\n".join(json.loads(found.read_text()) if found.exists() else []))
END
number=$(grep -c . "$failed")
if ((number == 0 || number > MOST)); then
  echo "[test] $number failed, more than $MOST or none that can be named: not run again" >&2
  exit $status
fi
echo "[test] $number failed beside the others; once more, alone:"
sed 's/^/[test]   /' "$failed"
mapfile -t names <"$failed"
JOURNEYMAN_TESTS_AGAIN=1 "$python" -m pytest "${names[@]}" || exit $?
echo "[test] passed alone, not beside the others: $number (named above; worth a look)"
