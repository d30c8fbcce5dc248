"""One invocation of a function's program, behind the interface that Lambda gives it.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""
import json
import os
import subprocess
import threading
import time

from cloud.web import Handler, serve


class Runtime(Handler):
    """Hands out one event, takes one answer."""

    def do_GET(self):
        server = self.server
        if server.handed_out.is_set():
            server.answered.wait()
            return
        server.handed_out.set()
        headers = [("lambda-runtime-aws-request-id", "1"), ("lambda-runtime-deadline-ms", str(int(time.time() * 1000) + 900_000)),
                   ("lambda-runtime-invoked-function-arn", "arn:aws:lambda:eu-west-1:111122223333:function:bench"),
                   ("content-type", "application/json")]
        self.answer(200, server.event, headers)

    def do_POST(self):
        self.server.said = (self.path.rsplit("/", 1)[-1], json.loads(self.body()))
        self.answer(202)
        self.server.answered.set()


class Invocation:
    """A program that has got an event; `end` waits for its answer and ends it."""

    def __init__(self, command, environment, event, log):
        self.server = serve(Runtime)
        self.server.event = json.dumps(event).encode()
        self.server.handed_out, self.server.answered = threading.Event(), threading.Event()
        settings = {"AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self.server.server_address[1]}", "AWS_LAMBDA_FUNCTION_NAME": "bench",
                    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "256", "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
                    "AWS_LAMBDA_LOG_STREAM_NAME": "1", "AWS_LAMBDA_LOG_GROUP_NAME": "1"}
        self.process = subprocess.Popen(command, env={**environment, **settings}, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def end(self, seconds=900):
        """What the function answered, and what its process used."""
        answered = self.server.answered.wait(seconds)
        self.process.kill()
        _, _, usage = os.wait4(self.process.pid, 0)
        self.server.shutdown()
        self.server.server_close()
        if not answered:
            raise TimeoutError(f"no answer within {seconds} s")
        kind, answer = self.server.said
        if kind != "response":
            raise RuntimeError(f"it failed: {answer}")
        return answer, usage
