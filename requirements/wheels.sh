#!/usr/bin/env bash
# Whether each file beside this one can be installed from wheels alone, nothing being compiled, on every Python and
# platform that the README names. Asks the package index and installs nothing. Needs uv; run it as `make wheels`.
# What the other files pin is pinned the same in test.txt (a test says so), so that one and worker-gpu.txt say it all.
# Exit status: 1 where something has no wheel; 75 where the index did not answer, which says nothing of the files.
set -u
cd "$(dirname "$0")"
pythons=(3.11 3.12 3.13 3.14)
platforms=(x86_64-manylinux_2_28 aarch64-manylinux_2_28 aarch64-apple-darwin)
export MACOSX_DEPLOYMENT_TARGET=14.0

resolve() { # FILE PYTHON PLATFORM: prints what has no wheel
  said=$(uv pip compile --quiet --only-binary :all: --python-version "$2" --python-platform "$3" "$1" 2>&1 >/dev/null) && return
  grep --quiet unsatisfiable <<<"$said" || said="no answer: $(head -1 <<<"$said")"
  printf '%s on Python %s, %s: %s\n' "$1" "$2" "$3" "$(grep -E 'cause:|no answer:' <<<"$said")"
}

if ! uv pip compile --quiet build.in >/dev/null 2>&1; then
  echo "requirements/wheels.sh: no package index answers; nothing was checked" >&2
  exit 75
fi
missing=$(
  for python in "${pythons[@]}"; do
    for platform in "${platforms[@]}"; do
      resolve test.txt "$python" "$platform" &
    done
    resolve worker-gpu.txt "$python" x86_64-manylinux_2_28 & # CUDA's wheels are for no other platform
  done
  wait
)
if [[ -n $missing ]]; then
  echo "$missing" >&2
  grep --quiet --invert-match 'no answer:' <<<"$missing" && exit 1
  exit 75
fi
echo "test.txt and worker-gpu.txt resolve to wheels on Python ${pythons[*]} and ${platforms[*]}"
