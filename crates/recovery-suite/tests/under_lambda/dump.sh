#!/usr/bin/env bash
# A function on provided.al2023 with nothing but the layer of PostgreSQL's client programs. The event is a connection string as a
# JSON string; the answer says what pg_dump wrote, and whether pg_restore can read all of it.
# https://docs.aws.amazon.com/lambda/latest/dg/runtimes-walkthrough.html
set -uo pipefail
runtime="http://$AWS_LAMBDA_RUNTIME_API/2018-06-01/runtime/invocation"
work=$(mktemp -d)
while event=$(curl -sS --dump-header "$work/headers" "$runtime/next"); do
    request=$(sed -n 's/^lambda-runtime-aws-request-id: *//Ip' "$work/headers" | tr -d '\r')
    connection=${event//\"/}
    if /opt/bin/pg_dump --format=custom --file="$work/dump" "$connection" 2>"$work/said" &&
        /opt/bin/pg_restore --list "$work/dump" >"$work/list" 2>>"$work/said" &&
        /opt/bin/pg_restore --file="$work/statements" "$work/dump" 2>>"$work/said"; then
        tables=$(grep -c ' TABLE DATA ' "$work/list")
        libraries=$(LC_ALL=C ldd /opt/bin/pg_dump | grep -c '=> /opt/')
        answer="{\"version\":\"$(/opt/bin/pg_dump --version)\",\"tables\":$tables,\"bytes\":$(stat -c %s "$work/dump"),\"libraries\":$libraries}"
        curl -sS --output /dev/null --data "$answer" "$runtime/$request/response"
    else
        said=$(tr -d '"\\' <"$work/said" | tr '\n' ' ')
        curl -sS --output /dev/null --data "{\"errorType\":\"Dump\",\"errorMessage\":\"$said\"}" "$runtime/$request/error"
    fi
done
