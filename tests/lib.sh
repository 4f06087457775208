# shellcheck shell=bash
# For test programs in bash: `check NAME COMMAND…` runs one test, `finish` prints the count and ends.

passed=0
failed=0

check() {
    local name=$1 output
    shift
    if output=$("$@" 2>&1 </dev/null); then
        passed=$((passed + 1))
        echo "$name ok"
    else
        failed=$((failed + 1))
        echo "$name FAILED"
        # shellcheck disable=SC2001 # each line, not the first
        sed 's/^/    /' <<<"$output"
    fi
}

finish() {
    echo "$passed passed, $failed failed"
    [ "$failed" -eq 0 ]
    exit
}
