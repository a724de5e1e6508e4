#!/usr/bin/env bash
# Pins what each role installs, with hashes, from the extras in pyproject.toml. Needs uv; run it as `make lock`.
# test.txt holds everything, so it is resolved first and the others are held to its versions.
set -eu
cd "$(dirname "$0")/.."
pin() {
  out=requirements/$1.txt; shift
  # backports-strenum 1.3 shuts out Python 3.11, on which ai-edge-litert asks for it.
  echo 'backports-strenum<1.3' | uv pip compile --quiet --constraints - --universal --generate-hashes --no-emit-index-url --python-version 3.11 \
    --custom-compile-command 'make lock' --output-file "$out" "$@"
}
extras() { for extra in "$@"; do printf -- '--extra %s ' "$extra"; done; }
held='--constraints requirements/test.txt'
# shellcheck disable=SC2046,SC2086
{
  pin test pyproject.toml client/pyproject.toml requirements/build.in \
    $(extras up serving worker worker-tensorflow worker-litert training loadtest bench test)
  pin up pyproject.toml client/pyproject.toml requirements/build.in $(extras up serving worker) $held
  pin training pyproject.toml requirements/build.in $(extras training) $held
  pin serving pyproject.toml $(extras serving) $held
  pin worker pyproject.toml $(extras worker) $held
  pin worker-gpu pyproject.toml $(extras worker-gpu) $held
  pin build requirements/build.in $held
}
