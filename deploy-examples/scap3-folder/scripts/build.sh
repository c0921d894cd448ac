#!/bin/sh
# Run on the host, in the new release, before it is promoted.
set -eu
exec make -C "$SCAP_REV_PATH" "$@"
