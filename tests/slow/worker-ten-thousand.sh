#!/bin/sh
# Ten thousand jobs through two workers that are killed at random. TAP; minutes.
#   NB_TEST_NIBBLE=build/nibble tests/slow/worker-ten-thousand.sh
exec sh "$(dirname "$0")/../test_worker_kill.sh" 10000 2
