#!/usr/bin/env bash
# Builds the Collector of builder.yaml (needs Go) and prints its path. Built once, kept by the content of the manifest in
# ${OTEL_COST_CACHE:-${XDG_CACHE_HOME:-~/.cache}/otel-cost}.
set -euo pipefail
cd "$(dirname "$0")"
builder=v0.165.0
command -v go >/dev/null || { echo "build.sh: Go is missing; install: apt-get install golang" >&2; exit 2; }
cache="${OTEL_COST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/otel-cost}"
folder="$cache/collector-$(cat builder.yaml build.sh | sha256sum | cut -c1-16)"
if [ ! -x "$folder/otelcol" ]; then
  mkdir -p "$folder"
  work=$(mktemp -d "$cache/building.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  GOBIN="$work" go install "go.opentelemetry.io/collector/cmd/builder@$builder" >&2
  sed "s#output_path: .*#output_path: $work/build#" builder.yaml >"$work/builder.yaml"
  "$work/builder" --config "$work/builder.yaml" >&2
  mv "$work/build/otelcol" "$folder/otelcol"
fi
echo "$folder/otelcol"
