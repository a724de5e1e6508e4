#!/usr/bin/env bash
# Pins what each role installs, with hashes, from the extras in pyproject.toml. Needs uv; run it as `make lock`.
# What runs is pinned first: `up`, then `training` within its versions; what only tests use is pinned last, within both,
# so that no client of the tests holds a role back. ARGS go to uv: `make lock ARGS=--upgrade` takes newer versions.
# One file is for every Python and platform that is named here, and only what has a wheel for each of them is taken
# where that is known beforehand; requirements/wheels.sh finds out what has none.
set -eu
cd "$(dirname "$0")/.."
args=("$@")
pin() {
  out=requirements/$1.txt; shift
  uv pip compile --quiet --constraints requirements/constraints.in --universal --generate-hashes --no-emit-index-url \
    --no-emit-find-links --python-version 3.11 --custom-compile-command 'make lock' --output-file "$out" "${args[@]}" "$@"
}
extras() { for extra in "$@"; do printf -- '--extra %s ' "$extra"; done; }
up='--constraints requirements/up.txt'
roles="$up --constraints requirements/training.txt"
# shellcheck disable=SC2046,SC2086
{
  pin up pyproject.toml client/pyproject.toml requirements/build.in $(extras up serving worker jobs grpc)
  pin training pyproject.toml requirements/build.in $(extras training) $up
  pin serving pyproject.toml $(extras serving) $up
  pin worker pyproject.toml $(extras worker) $up
  pin worker-stores pyproject.toml $(extras worker-stores) $up
  pin jobs pyproject.toml $(extras jobs) $up
  pin worker-gpu pyproject.toml $(extras worker-gpu) $up
  pin build requirements/build.in $up
  pin test pyproject.toml client/pyproject.toml requirements/build.in \
    $(extras up serving worker worker-tensorflow worker-litert worker-tokenizers worker-heif jobs tracing training loadtest bench test) $roles
  pin serving-extras pyproject.toml $(extras serving tracing payload-log) $up --constraints requirements/test.txt
  pin load client/pyproject.toml $(extras load) $up --constraints requirements/test.txt
}
