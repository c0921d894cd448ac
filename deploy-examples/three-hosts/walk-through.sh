#!/usr/bin/env bash
# A fleet of three agents on this machine: deployed to, verified, broken, repaired, cleaned up.
# README.md here says which variables it reads.

set -Eeuo pipefail

read -r -a coordinator <<<"${SCAP_COORDINATOR:-scap-coordinator}"
read -r -a agent <<<"${SCAP_AGENT:-scap-agent}"
read -r -a ports <<<"${SCAP_PORTS:-0 0 0}"
hosts=(web1 web2 web3)

# Whatever your git does to commits, it does not do here.
export GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null

say() { printf '\n== %s\n' "$*"; }

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Shows a command and runs it.
run() {
    printf '$ %s\n' "$*"
    "$@"
}

# A path stays the same file after the change of directory below.
[[ ${coordinator[0]} != */* ]] || coordinator[0]=$(realpath "${coordinator[0]}")
[[ ${agent[0]} != */* ]] || agent[0]=$(realpath "${agent[0]}")
for tool in git tar diff "${coordinator[0]}" "${agent[0]}"; do
    command -v "$tool" >/dev/null || fail "\`$tool\` is not installed"
done
[[ ${#ports[@]} -eq ${#hosts[@]} ]] || fail "SCAP_PORTS: ${#hosts[@]} ports are needed"

dir=$(mktemp -d "${TMPDIR:-/tmp}/scap-three-hosts.XXXXXX")
pids=()

clean_up() {
    local status=$?
    trap - EXIT
    if [[ ${#pids[@]} -gt 0 ]]; then
        kill "${pids[@]}" 2>/dev/null || true
        wait "${pids[@]}" 2>/dev/null || true
    fi
    if [[ $status -ne 0 ]]; then
        tail -n 5 "$dir"/*/agent.log >&2 2>/dev/null || true
    fi
    if [[ -n ${SCAP_KEEP:-} ]]; then
        printf 'kept %s\n' "$dir"
    else
        rm -rf "$dir"
    fi
    exit "$status"
}
trap clean_up EXIT

cd "$dir"

commit() {
    git -C repo add --all
    git -C repo -c user.name=Walk -c user.email=walk@scap.invalid commit --quiet -m "$1"
}

# Runs `deploy` and checks that it ends with the exit code $1.
deploy() {
    local expected=$1 status=0
    run "${coordinator[@]}" deploy --state state --repo repo --name web/site --fleet fleet.toml --yes ||
        status=$?
    [[ $status -eq $expected ]] || fail "deploy ended with exit code $status, not $expected"
}

# Checks that these hosts have the revision $1 live: in their own word, and compared with git.
check() {
    local revision=$1 host
    shift
    rm -rf expected && mkdir expected
    git -C repo archive "$revision" | tar -x -C expected
    for host in "$@"; do
        run "${agent[@]}" verify web/site --data "$host/data"
        diff -r --no-dereference expected "$host/srv/web/site/" ||
            fail "$host does not have what git has"
    done
}

say "A git repo"
git init --quiet repo
mkdir -p repo/bin repo/static
printf 'Version 1\n' >repo/index.html
printf '#!/bin/sh\nexec echo serving\n' >repo/bin/serve
chmod 755 repo/bin/serve
ln -s ../bin/serve repo/static/serve
commit "Version 1"

say "Keys, and an identity for each host; on real hosts each is copied to its host"
run "${coordinator[@]}" init --state state
for host in "${hosts[@]}"; do
    run "${coordinator[@]}" enroll "$host" --state state --out "$host/identity"
done

say "An agent for each host"
for i in "${!hosts[@]}"; do
    host=${hosts[i]}
    mkdir -p "$host/srv"
    "${agent[@]}" run --identity "$host/identity" --listen "127.0.0.1:${ports[i]}" \
        --data "$host/data" --deploy-root "$host/srv" </dev/null 2>"$host/agent.log" &
    pids+=("$!")
done
for i in "${!hosts[@]}"; do
    host=${hosts[i]}
    deadline=$((SECONDS + 60))
    until answer=$("${agent[@]}" status --data "$host/data" 2>&1); do
        kill -0 "${pids[i]}" 2>/dev/null || fail "the agent of $host ended"
        [[ $SECONDS -lt $deadline ]] || fail "the agent of $host does not answer: $answer"
        sleep 0.1
    done
    printf '%s\n' "$answer"
    address=$(sed -n '1s/.* listens on //p' <<<"$answer")
    {
        printf '[[host]]\nname = "%s"\naddress = "%s"\n' "$host" "$address"
        [[ $i -ne 0 ]] || printf 'groups = ["canary"]\n'
    } >>fleet.toml
done
run cat fleet.toml

say "Deploy: to the canary, web1, then to the rest"
deploy 0
check HEAD "${hosts[@]}"

say "Deploy a one-line change"
printf 'Version 2\n' >repo/index.html
commit "Version 2"
deploy 0
check HEAD "${hosts[@]}"
run "${agent[@]}" status --data web2/data

say "A canary that cannot go live ends the rollout (exit code 4); everybody keeps version 2"
printf 'Version 3\n' >repo/index.html
commit "Version 3"
# An agent refuses a deploy root that others may write to.
chmod o+w web1/srv
deploy 4
chmod o-w web1/srv
check HEAD~1 "${hosts[@]}"

say "Once it is repaired, the same command goes on"
deploy 0
check HEAD "${hosts[@]}"

say "All three hosts have version 3, equal to git"
