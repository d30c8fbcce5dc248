#!/usr/bin/env python3
"""A Lambda whose work is done elsewhere: hands each event to the test, which calls the function's own library.

The emulator speaks Lambda's Runtime API to it, so results and errors take the way they take on AWS.
"""

import os
import urllib.error
import urllib.request

RUNTIME = f"http://{os.environ['AWS_LAMBDA_RUNTIME_API']}/2018-06-01/runtime/invocation"
BRIDGE = os.environ["PARITY_BRIDGE"]
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def post(url, body, headers=None):
    return DIRECT.open(urllib.request.Request(url, data=body, headers=headers or {}, method="POST"))


while True:
    with DIRECT.open(f"{RUNTIME}/next") as event:
        invocation, payload = event.headers["Lambda-Runtime-Aws-Request-Id"], event.read()
    try:
        with post(BRIDGE, payload, {"Content-Type": "application/json"}) as answer:
            post(f"{RUNTIME}/{invocation}/response", answer.read()).close()
    except urllib.error.HTTPError as refused:
        body = refused.read()
        headers = {"Lambda-Runtime-Function-Error-Type": refused.headers.get("X-Error-Type", "Runtime.Unknown")}
        post(f"{RUNTIME}/{invocation}/error", body, headers).close()
