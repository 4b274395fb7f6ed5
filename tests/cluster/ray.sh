#!/usr/bin/env bash
# Installs Ray under the target folder and runs test_ray.py with the release build.
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ -n "${ANY2PIX_SKIP_RAY:-}" ]; then
    echo "warning: ANY2PIX_SKIP_RAY is set: the test of Ray is skipped"
    exit 0
fi
target=${CARGO_TARGET_DIR:-target}
if ! "$target/ray/bin/python" -c "import ray" 2>/dev/null; then
    if ! { python3 -m venv "$target/ray" && "$target/ray/bin/pip" install --quiet "ray>=2.50,<3"; }; then
        echo "error: Ray cannot be installed, and its test must run" >&2
        echo "hint: it needs Python's venv and PyPI; ANY2PIX_SKIP_RAY=1 leaves the test out" >&2
        exit 1
    fi
fi
exec "$target/ray/bin/python" tests/cluster/test_ray.py "$target/release/any2pix"
